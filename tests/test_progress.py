from orchestrator.progress import AT_ONCE, Progress
from orchestrator.runs import RunFolder


def test_the_steps_between_evaluations_are_seen_at_most_once_a_second(tmp_path, record_trial):
    run, now = RunFolder(tmp_path), [5.0]
    folder = record_trial(run, "cnn-search-0", "running", steps=(2, 4), host="n7")
    progress = Progress(run, lambda: now[0])
    assert (progress.step("cnn-search-0"), progress.host("cnn-search-0")) == (0, "")
    progress.look(["cnn-search-0"])
    assert (progress.step("cnn-search-0"), progress.host("cnn-search-0")) == (4, "n7")
    folder.append_metrics([{"step": 6, "time": 1.0, "loss": 0.5}])  # no evaluation
    progress.look(["cnn-search-0"])
    assert progress.step("cnn-search-0") == 4
    now[0] += 1
    progress.look(["cnn-search-0"])
    assert progress.step("cnn-search-0") == 6


def test_many_trials_are_read_in_turn(tmp_path, record_trial):
    run, now = RunFolder(tmp_path), [0.0]
    trials = [f"cnn-search-{number}" for number in range(2 * AT_ONCE + 3)]
    for trial in trials:
        record_trial(run, trial, "running", steps=(5,))
    progress = Progress(run, lambda: now[0])
    seen = []
    for _ in range(3):
        progress.look(trials)
        seen.append(sum(progress.step(trial) == 5 for trial in trials))
        now[0] += 0.25
    assert seen == [AT_ONCE, 2 * AT_ONCE, len(trials)]
