"""Samplers and pruners by name, against studies that really run."""

import importlib.util
import math
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
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
from orchestrator.sequences import placed
from orchestrator.space import Space, grid, optuna_params, suggest

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
    assert (stopped == 0) == (name in ("none", "promote"))  # the ledger parks; later trials are worse at every step


def test_the_settings_reach_optuna():
    sampler = make_sampler({"name": "tpe", "n_startup_trials": 7, "group": True, "multivariate": True}, 0, SPACE)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert (sampler._n_startup_trials, sampler._group) == (7, True)
    wrapped = {"name": "percentile", "percentile": 11}
    pruner = make_pruner({"name": "patient", "patience": 5, "wrapped_pruner": wrapped}, "maximize")
    assert (pruner._patience, pruner._wrapped_pruner._percentile) == (5, 11)


def proposals(settings, seed, number, count=4):
    """What a sampler of a driver that starts at trial `number` proposes for it and those after it."""
    space = Space.from_dict({"optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}})
    study = optuna.create_study()
    for _ in range(number):
        study.ask()
    study.sampler = make_sampler(settings, seed, space, number)
    return [suggest(study.ask(), space)["optimizer.lr"] for _ in range(count)]


def test_the_seed_decides_and_a_restart_does_not_repeat_itself():
    assert proposals({"name": "random"}, 5, 0) == proposals({"name": "random"}, 5, 0)
    assert proposals({"name": "random"}, 5, 0) != proposals({"name": "random"}, 7, 0)
    assert not set(proposals({"name": "random"}, 5, 0)) & set(proposals({"name": "random"}, 5, 4))
    assert proposals({"name": "random"}, 5, 3, 1) == proposals({"name": "random"}, 5, 0)[3:]


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


CONDITIONAL = Space.from_dict(  # README's
    {
        "optimizer.name": {
            "adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
            "sgd": {"optimizer.lr": {"low": 1e-2, "high": 1.0, "log": True}},
        },
        "loss.kappa": [0.0, 0.002, 0.01],
    }
)


def configurations(name, space, seed, flight, pick, trials, pruner="none"):
    """The parameters by number where `flight` trials run at once; `pick` chooses which ends next, and some fail."""
    study = optuna.create_study(study_name="s", pruner=make_pruner({"name": pruner}, "minimize"))
    running, found, random_state = [], [], random.Random(7 * seed + flight)
    while len(found) < trials or running:
        while len(running) < flight and len(found) < trials:
            study.sampler = make_sampler({"name": name}, seed, space, len(found))  # a new one each time: a restart
            trial = study.ask()
            found.append(suggest(trial, space))
            running.append(trial)
        trial = running.pop(pick(running, random_state))
        lost = pick is not OLDEST and random_state.random() < 0.3
        study.tell(trial, None if lost else random_state.random(), state=TrialState.FAIL if lost else None)
    return found


OLDEST, NEWEST = (lambda running, _: 0), (lambda running, _: -1)
ANY = lambda running, draw: draw.randrange(len(running))  # noqa: E731


@pytest.mark.parametrize("name", ["random", "qmc", "grid"])
@pytest.mark.parametrize("seed", range(10))
def test_configurations_follow_from_the_number_alone(name, seed):
    space = SPACE if name == "grid" else CONDITIONAL
    expected = configurations(name, space, seed, 1, OLDEST, 13)
    for flight in range(1, 9):
        for pick in (OLDEST, NEWEST, ANY):
            assert configurations(name, space, seed, flight, pick, 13) == expected
    repeats = len(expected) - len({repr(sorted(params.items())) for params in expected})
    assert repeats == (13 - len(grid(SPACE)) if name == "grid" else 0)
    assert configurations(name, space, seed, 4, ANY, 7, pruner="hyperband") == expected[:7]


def test_a_quasi_random_sequence_places_every_branch():
    found = configurations("qmc", CONDITIONAL, 3, 1, OLDEST, 64)
    for name, low, high in (("adam", 1e-4, 1e-2), ("sgd", 1e-2, 1.0)):
        rates = [params["optimizer.lr"] for params in found if params["optimizer.name"] == name]
        assert len(rates) == 32  # a net in base 2 halves every choice
        shares = [math.log(rate / low) / math.log(high / low) for rate in rates]
        assert sorted(int(8 * share) for share in shares) == sorted([*range(8)] * 4)


def test_a_finite_space_is_gone_through_before_anything_repeats():
    found = configurations("qmc", SPACE, 5, 1, OLDEST, 20)
    names = [optuna_params(SPACE, params) for params in found]
    for half in (names[:10], names[10:]):
        assert all(point in half for point in grid(SPACE))


LAYERS = Space.from_dict({"model.layers": [1, 2, 3], "model.planes": [5, 7], "optimizer.momentum": [0.0, 0.5]})


@pytest.mark.parametrize("name", ["grid", "qmc"])
@pytest.mark.parametrize(
    "fixed",
    [
        [{"model.layers": 2}],
        [{"model.planes": 7, "model.layers": 3, "optimizer.momentum": 0}, {"model.planes": 7}],
        [{"optimizer.momentum": 0.5}] * 6,
    ],
)
def test_what_is_enqueued_in_part_takes_its_place_in_the_order(name, fixed):
    """Every configuration comes once in 12, and once more in 24."""
    study, found = optuna.create_study(), []
    for given in fixed:
        study.enqueue_trial(given)
    for number in range(24):
        study.sampler = make_sampler({"name": name}, 3, LAYERS, number)
        found.append(suggest(study.ask(), LAYERS))
        if number < len(fixed):
            assert fixed[number].items() <= found[-1].items()
    for half in (found[:12], found[12:]):
        assert len({tuple(float(value) for value in params.values()) for params in half}) == 12


def test_what_is_enqueued_twice_is_missing_nowhere():
    study, found = optuna.create_study(), []
    for _ in range(2):
        study.enqueue_trial({"model.layers": 2, "model.planes": 5, "optimizer.momentum": 0.5})
    for number in range(13):
        study.sampler = make_sampler({"name": "grid"}, 3, LAYERS, number)
        found.append(suggest(study.ask(), LAYERS))
    assert found[0] == found[1]
    assert len({tuple(params.values()) for params in found}) == 12


def test_a_finite_logarithmic_range_is_searched_on_its_scale():
    """Of 1 to 128, as much below 11.3 as above; in equal steps 9 of 10 would be above."""
    space = Space.from_dict({"model.planes": {"low": 1, "high": 128, "log": True}})
    planes = [params["model.planes"] for params in configurations("qmc", space, 3, 1, OLDEST, 16)]
    assert len(set(planes)) == 16
    assert 5 <= sum(value**2 < 128 for value in planes) <= 11


def test_a_crash_in_the_middle_of_a_choice_changes_nothing():
    """The parameters that were not yet drawn are those that would have been drawn."""
    for name in ("random", "qmc"):
        whole = configurations(name, CONDITIONAL, 5, 1, OLDEST, 7)
        study = optuna.create_study()
        for expected in whole:
            study.sampler = make_sampler({"name": name}, 5, CONDITIONAL, len(study.trials))
            trial = study.ask()
            choice = CONDITIONAL.dimensions[0]
            trial.suggest_categorical(choice.name, choice.encoded())
            study.sampler = make_sampler({"name": name}, 5, CONDITIONAL, trial.number)  # another driver
            assert suggest(optuna.trial.Trial(study, trial._trial_id), CONDITIONAL) == expected


def test_what_is_enqueued_is_left_out_of_the_order_after_it():
    points = grid(SPACE)
    study = optuna.create_study()
    for point in points[3:5]:
        study.enqueue_trial(point)
    chosen = []
    for number in range(len(points)):
        study.sampler = make_sampler({"name": "grid"}, 0, SPACE, number)
        chosen.append(optuna_params(SPACE, suggest(study.ask(), SPACE)))
    assert chosen[:2] == points[3:5]
    assert all(point in chosen for point in points)


def test_optunas_own_arguments_of_a_quasi_random_search_are_taken():
    settings = {"qmc_type": "halton", "scramble": False, "warn_independent_sampling": False}
    assert not sampler_problems({"name": "qmc", **settings, "warn_asynchronous_seeding": False})
    study = optuna.create_study(sampler=make_sampler({"name": "qmc", **settings}, 5, CONDITIONAL))
    found = [
        study.ask().suggest_float(CONDITIONAL.dimensions[0].branches[0].dimensions[0].name, 0.0, 27.0) for _ in range(5)
    ]
    assert found == pytest.approx(
        [0.0, 9.0, 18.0, 3.0, 12.0]
    )  # van der Corput's numbers in base 3: the second dimension


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (FloatDistribution(2.0, 6.0), [2.0, 3.0, 5.0]),
        (FloatDistribution(1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-1]),
        (FloatDistribution(0.0, 0.5, step=0.25), [0.0, 0.0, 0.5]),
        (IntDistribution(3, 9, step=3), [3, 3, 9]),
        (IntDistribution(1, 8, log=True), [1, 1, 4]),
        (CategoricalDistribution(("a", "b", "c")), ["a", "a", "c"]),
    ],
)
def test_a_point_of_the_unit_interval_is_placed_on_the_scale_of_its_range(distribution, expected):
    assert [placed(u, distribution) for u in (0.0, 0.25, 0.75)] == pytest.approx(expected)


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
        ({"name": "qmc", "qmc_type": "lhs"}, "qmc_type: saw 'lhs', expected sobol or halton"),
        ({"name": "qmc", "scramble": 1}, "search.sampler.scramble: saw 1, expected true or false"),
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
