import itertools
from random import Random

import numpy as np
import optuna
import pytest

from orchestrator.fronts import beats, fronts
from orchestrator.ranking import ranked
from orchestrator.sections import Objective

DISTANCE, SCORE = Objective(metric="fd_lite0"), Objective(metric="is_lite0_mean", direction="maximize")


def trials(values):
    return [
        optuna.trial.create_trial(
            values=list(value), params={}, distributions={}, state=optuna.trial.TrialState.COMPLETE
        )
        for value in values
    ]


def numbered(values):
    found = trials(values)
    for number, trial in enumerate(found):
        trial.number = number
    return found


def test_one_objective_is_sorted_in_its_direction_and_ties_by_number():
    values = [(5.0,), (3.0,), (7.0,), (3.0,)]
    assert [trial.number for trial in ranked(numbered(values), [DISTANCE])] == [1, 3, 0, 2]
    assert [trial.number for trial in ranked(numbered(values), [SCORE])] == [2, 0, 1, 3]


def test_fronts_by_hand():
    costs = {0: (1.0, 5.0), 1: (2.0, 2.0), 2: (5.0, 1.0), 3: (2.0, 5.0), 4: (3.0, 3.0), 5: (6.0, 6.0)}
    assert fronts(costs) == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2}


@pytest.mark.parametrize("seed", range(5))
def test_the_first_front_is_optunas(seed):
    random = Random(seed)
    values = [(random.randint(0, 6), random.randint(0, 6)) for _ in range(23)]
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials(trials(values))
    signed = {trial.number: (trial.values[0], -trial.values[1]) for trial in study.trials}
    assert {number for number, front in fronts(signed).items() if front == 0} == {t.number for t in study.best_trials}
    order = [trial.number for trial in ranked(study.trials, [DISTANCE, SCORE])]
    assert {t.number for t in study.best_trials} == set(order[: len(study.best_trials)])
    assert not any(beats(signed[late], signed[early]) for early, late in itertools.combinations(order, 2))


def slow_fronts(costs):
    """Front by front, everybody against everybody."""
    left, found, front = dict(costs), {}, 0
    while left:
        best = [number for number, own in left.items() if not any(beats(other, own) for other in left.values())]
        found |= dict.fromkeys(best, front)
        left = {number: cost for number, cost in left.items() if number not in found}
        front += 1
    return found


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_are_those_of_comparing_everybody_with_everybody(objectives):
    random = np.random.RandomState(objectives)
    for count in (0, 1, 5, 47):
        values = random.randint(0, 11, size=(count, objectives)).astype(float)  # with many that are equal
        values[random.rand(*values.shape) < 0.05] = np.inf
        costs = {int(number): tuple(own) for number, own in zip(random.permutation(count), values, strict=True)}
        if count == 47:
            costs[99] = (np.nan,) * objectives
        assert list(fronts(costs).items()) == list(slow_fronts(costs).items())
