import itertools
from random import Random

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
