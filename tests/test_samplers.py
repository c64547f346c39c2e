"""Samplers and pruners by name, against studies that really run."""

import importlib.util

import optuna
import pytest
from optuna.trial import TrialState

from aiqn_core.config import ConfigError
from orchestrator.samplers import (
    PACKAGES,
    PRUNERS,
    SAMPLERS,
    make_pruner,
    make_sampler,
    pruner_problems,
    sampler_problems,
)
from orchestrator.space import Space, grid, suggest

SPACE = Space.from_dict(
    {
        "optimizer.name": {"adam": {"optimizer.lr": [0.1, 0.2, 0.3]}, "sgd": {"optimizer.momentum": [0.0, 0.9]}},
        "model.layers": [1, 2],
    }
)
SETTINGS = {"percentile": {"percentile": 25.0}, "patient": {"patience": 2}, "threshold": {"upper": 9.0}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def installed(name):
    return name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None


@pytest.mark.parametrize("name", [name for name in SAMPLERS if installed(name)])
def test_every_sampler_proposes_from_the_space(name):
    study = optuna.create_study(sampler=make_sampler({"name": name}, 3, SPACE))
    for number in range(5):
        trial = study.ask()
        params = suggest(trial, SPACE)
        assert ("optimizer.lr" in params) == (params["optimizer.name"] == "adam")
        study.tell(trial, float(number))


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_decides_on_a_running_study(name):
    pruner = make_pruner({"name": name, **SETTINGS.get(name, {})}, "minimize")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    stopped = 0
    for number in range(12):
        trial, pruned = study.ask(), False
        for step in range(1, 9):
            trial.report(float(number * step), step)
            pruned = trial.should_prune()
            if pruned:
                break
        stopped += pruned
        study.tell(trial, None if pruned else 1.0, state=TrialState.PRUNED if pruned else TrialState.COMPLETE)
    assert (stopped == 0) == (name == "none")  # later trials are worse at every step


def test_the_settings_reach_optuna():
    sampler = make_sampler({"name": "tpe", "n_startup_trials": 7, "group": True, "multivariate": True}, 0, SPACE)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert (sampler._n_startup_trials, sampler._group) == (7, True)
    wrapped = {"name": "percentile", "percentile": 11}
    pruner = make_pruner({"name": "patient", "patience": 5, "wrapped_pruner": wrapped}, "maximize")
    assert (pruner._patience, pruner._wrapped_pruner._percentile) == (5, 11)


def proposals(settings, seed, number, count=4):
    space = Space.from_dict({"optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}})
    study = optuna.create_study(sampler=make_sampler(settings, seed, space, number))
    return [suggest(study.ask(), space)["optimizer.lr"] for _ in range(count)]


def test_the_seed_decides_and_a_restart_does_not_repeat_itself():
    assert proposals({"name": "random"}, 5, 0) == proposals({"name": "random"}, 5, 0)
    assert proposals({"name": "random"}, 5, 0) != proposals({"name": "random"}, 7, 0)
    assert not set(proposals({"name": "random"}, 5, 0)) & set(proposals({"name": "random"}, 5, 4))


def test_a_quasi_random_sequence_goes_on_over_restarts():
    settings, space = {"name": "qmc", "scramble": True}, Space.from_dict({"optimizer.lr": {"low": 1e-4, "high": 1.0}})

    def values(restart):
        study = optuna.create_study(sampler=make_sampler(settings, 5, space))
        for number in range(9):
            if restart:
                study.sampler = make_sampler(settings, 5, space, number)
            trial = study.ask()
            suggest(trial, space)
            study.tell(trial, 0.0)
        return [trial.params["optimizer.lr"] for trial in study.trials[1:]]  # the first one is drawn independently

    assert values(restart=True) == values(restart=False)


@pytest.mark.parametrize("pruner", [{"name": "none"}, {"name": "hyperband", "max_resource": 9}])
def test_the_grid_is_covered_once_over_restarts_and_lost_trials(pruner):
    points = grid(SPACE)
    study = optuna.create_study(pruner=make_pruner(pruner, "minimize"))
    for number in range(len(points) + 3):
        study.sampler = make_sampler({"name": "grid"}, number, SPACE, number)  # a new one each time: a restart
        trial = study.ask()
        suggest(trial, SPACE)
        lost = number in (0, 4, 7)
        study.tell(trial, None if lost else 1.0, state=TrialState.FAIL if lost else TrialState.COMPLETE)
    done = [trial.params for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(done) == len(points) == 10
    assert all(point in done for point in points)


def test_grid_trials_that_run_side_by_side_differ():
    study = optuna.create_study(sampler=make_sampler({"name": "grid"}, 0, SPACE))
    chosen = [suggest(study.ask(), SPACE) for _ in range(10)]
    assert all(params not in chosen[:i] for i, params in enumerate(chosen))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tpee"}, "search.sampler.name: saw 'tpee'; did you mean 'tpe'? valid: random, grid"),
        ({"name": ["tpe"]}, "search.sampler.name: saw ['tpe']; "),
        ({}, "search.sampler.name: missing; valid: random"),
        ({"name": "tpe", "n_startup": 3}, "saw 3, but tpe has no such argument; did you mean 'n_startup_trials'?"),
        ({"name": "tpe", "gamma": 3}, "saw 3, but tpe has no such argument"),
        ({"name": "random", "n": 3}, "saw 3, but random has no such argument; it has none"),
        ({"name": "tpe", "group": 1}, "search.sampler.group: saw 1, expected true or false"),
        ({"name": "tpe", "seed": 1}, "search.sampler.seed: saw 1, expected it as search.seed"),
        ({"name": "tpe", "group": True, "multivariate": False}, "Optuna says: "),
        ({"name": "nsga2", "population_size": 1}, "Optuna says: "),
    ],
)
def test_mistakes_in_a_sampler(settings, message):
    (problem,) = sampler_problems(settings)
    assert message in str(problem)
    with pytest.raises(ConfigError):
        make_sampler(settings, 0, SPACE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "asah"}, "search.pruner.name: saw 'asah'; did you mean 'asha'?"),
        ({"name": "percentile"}, "search.pruner.percentile: missing; percentile needs a number"),
        ({"name": "percentile", "percentile": 101.0}, "Optuna says: "),
        ({"name": "median", "n_warmup_steps": "3"}, "n_warmup_steps: saw '3', expected an integer"),
        ({"name": "asha", "reduction_factor": 1}, "Optuna says: "),
        ({"name": "threshold"}, "Optuna says: "),
        ({"name": "threshold", "lower": 3.0}, "stops the best trials when we minimize; expected upper"),
        ({"name": "patient", "patience": 2, "wrapped_pruner": "meidan"}, "search.pruner.wrapped_pruner.name: saw"),
        ({"name": "patient", "patience": 2, "wrapped_pruner": 5}, "wrapped_pruner: saw 5, expected the name"),
    ],
)
def test_mistakes_in_a_pruner(settings, message):
    (problem,) = pruner_problems(settings, "minimize")
    assert message in str(problem)
    with pytest.raises(ConfigError):
        make_pruner(settings, "minimize")


def test_a_threshold_has_its_good_side_by_direction():
    assert not pruner_problems({"name": "threshold", "lower": 3.0}, "maximize")
    assert pruner_problems({"name": "threshold", "upper": 3.0}, "maximize")
    assert not pruner_problems({"name": "threshold", "lower": 0.0, "upper": 3.0}, "maximize")


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = sampler_problems({"name": "cmaes"})
    assert str(problem) == (
        "search.sampler.name: saw 'cmaes', which needs the package cmaes; pip install cmaes, or choose another"
    )
