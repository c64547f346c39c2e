from orchestrator.clocks import Awake


def test_a_pause_counts_as_no_more_than_a_gap():
    times = iter([100.0, 101.0, 102.5, 7302.5, 7303.0])  # two hours of sleep between the third and the fourth
    awake = Awake(lambda: next(times), gap=5.0)
    assert [awake() for _ in range(4)] == [1.0, 2.5, 7.5, 8.0]
