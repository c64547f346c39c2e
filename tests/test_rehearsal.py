"""What a pruner will keep at some parallelism, against rules that say it exactly."""

import math

import pytest
from test_notes import searched

from orchestrator.rehearsal import curves, rehearsal_lines, rehearse
from orchestrator.rungs import rungs


def agreement(one, other):
    """Kendall's rank correlation, pair by pair."""
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    return sum(math.copysign(1, (one[i] - one[j]) * (other[i] - other[j])) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize(("step", "recorded"), [(5, 0.5), (10, 0.6), (25, 0.7), (50, 0.8)])
def test_made_up_curves_show_as_much_of_their_end_as_recorded_ones(step, recorded):
    points = [one.points for one in curves("one", [5, 10, 25, 50, 100], 151, seed=3)]
    index = [at for at, _, _ in points[0]].index(step)
    assert agreement([one[index][2] for one in points], [one[-1][2] for one in points]) == pytest.approx(
        recorded, abs=0.08
    )


def test_with_all_trials_at_once_a_pruner_that_waits_for_the_first_to_end_stops_few(load):
    sweep = searched(load, "{trials: 31, sampler: tpe, pruner: median}")
    arm = sweep.arms["one"]
    one_by_one, together = (rehearse(sweep, arm, {"name": "median"}, at_once) for at_once in (1, 31))
    assert all(few.pruned > 2 * many.pruned for few, many in zip(one_by_one, together, strict=True))
    assert all(one.pruned <= 31 - 5 for one in one_by_one)  # the first five run to their end
    alone, beside = rehearsal_lines(sweep, 1), rehearsal_lines(sweep, 31)
    assert [line.split()[0] for line in alone] == ["pruner"]
    assert beside[1] == "sampler     tpe draws 31 of 31 trials of an arm before any has ended"


def test_steps_are_those_of_the_rungs_where_trials_stop(load):
    sweep = searched(load, "{trials: 41, sampler: random, pruner: hyperband}")
    arm = sweep.arms["one"]
    for found in rehearse(sweep, arm, {"name": "asha"}, 3):
        kept = 41 - found.pruned
        first = rungs({"name": "asha"}, 5, 70)[0]
        assert 41 * first + kept * (70 - first) <= found.steps < 41 * 70 / 2
    (line,) = rehearsal_lines(sweep, 3)
    assert line.startswith("pruner      hyperband would keep ")
    assert " (asha " in line


@pytest.mark.parametrize(
    "pruner", ["none", "{name: threshold, upper: 9.0}", "{name: patient, patience: 2}", "wilcoxon"]
)
def test_what_goes_by_more_than_ranks_is_not_foretold(load, pruner):
    assert rehearsal_lines(searched(load, f"{{trials: 31, sampler: tpe, pruner: {pruner}}}"), 3) == []
