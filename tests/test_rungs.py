"""Rungs against Optuna's own: a pruner is asked at every step, and must decide at our rungs only."""

import optuna
import pytest

from orchestrator.rungs import completed, evaluations_at, fewest_arrivals, rungs
from orchestrator.samplers import arrivals, make_pruner


def decided_at(settings, every, steps):
    """The steps at which Optuna notes a rung for a trial that reports at every single step."""
    study = optuna.create_study(pruner=make_pruner(completed(settings, every, steps), "minimize"))
    noted = []
    trial = study.ask()
    for step in range(1, steps):
        before = dict(study._storage.get_trial(trial._trial_id).system_attrs)
        trial.report(1.0, step)
        trial.should_prune()
        if study._storage.get_trial(trial._trial_id).system_attrs != before:
            noted.append(step)
    return noted


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "asha"}, [5, 20, 80]),
        ({"name": "asha", "min_resource": 7, "reduction_factor": 3}, [7, 21, 63, 189]),
        ({"name": "successive_halving", "min_resource": 3, "min_early_stopping_rate": 2}, [48, 192]),
        ({"name": "none"}, []),
        ({"name": "median"}, []),
    ],
)
def test_rungs_are_those_of_optuna(settings, expected):
    assert rungs(settings, 5, 201) == expected
    if settings["name"] in ("asha", "successive_halving"):
        assert decided_at(settings, 5, 201) == expected


def test_every_bracket_of_hyperband_decides_at_our_rungs():
    settings = {"name": "hyperband", "min_resource": 3, "reduction_factor": 3}
    ours = rungs(settings, 5, 100)
    assert ours == [3, 9, 27, 81]
    study = optuna.create_study(pruner=make_pruner(completed(settings, 5, 100), "minimize"), study_name="a/search")
    for _ in range(23):
        trial = study.ask()
        for step in range(1, 100):
            before = len(study._storage.get_trial(trial._trial_id).system_attrs)
            trial.report(1.0, step)
            trial.should_prune()
            assert len(study._storage.get_trial(trial._trial_id).system_attrs) == before or step in ours
        study.tell(trial, 1.0)


def test_evaluations_hit_every_rung():
    settings = {"name": "patient", "patience": 1, "wrapped_pruner": {"name": "asha", "min_resource": 6}}
    assert evaluations_at(settings, 12, 200, (50,)) == [6, 50]  # 24 and 96 are multiples of 12
    assert evaluations_at({"name": "asha"}, 12, 200, None) is None
    assert evaluations_at({"name": "none"}, 12, 200, None) is None


def test_resources_are_steps_unless_given():
    assert completed({"name": "hyperband", "reduction_factor": 2}, 30, 700) == {
        "name": "hyperband",
        "reduction_factor": 2,
        "min_resource": 30,
        "max_resource": 700,
    }
    assert completed({"name": "median", "n_startup_trials": 3}, 30, 700) == {"name": "median", "n_startup_trials": 3}


def test_the_evidence_that_is_needed():
    assert fewest_arrivals({"name": "asha"}, None) == 4
    assert fewest_arrivals({"name": "hyperband"}, None) == 3
    assert fewest_arrivals({"name": "asha", "reduction_factor": 2}, 7) == 7
    assert fewest_arrivals({"name": "patient", "patience": 3, "wrapped_pruner": "median"}, None) == 4
    assert fewest_arrivals({"name": "threshold", "upper": 3.0}, None) == 1


def test_arrivals_are_trials_that_reported_at_the_step():
    study = optuna.create_study()
    for last in (2, 3, 3, 5):
        trial = study.ask()
        for step in range(1, last + 1):
            trial.report(1.0, step)
    counted = [arrivals(study, study._storage.get_trial(number)) for number in range(4)]
    assert counted == [4, 3, 3, 1]
