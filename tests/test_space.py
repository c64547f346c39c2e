"""Search spaces: what a YAML mapping becomes, what Optuna is asked, and the way back."""

import itertools
import json

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from aiqn_core.config import ConfigError, ModelConfig, TrainConfig
from orchestrator.space import (
    Space,
    apply,
    combinations,
    count_combinations,
    grid,
    optuna_params,
    own_keys,
    searchable,
    suggest,
    variations,
)

NESTED = {
    "optimizer.name": {
        "adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "sgd": {
            "optimizer.lr": {"low": 1e-2, "high": 1.0, "log": True},
            "schedule": {"constant": None, "decay": {"optimizer.momentum": {"low": 0.0, "high": 0.9, "step": 0.3}}},
        },
    },
    "model.layers": {"low": 1, "high": 7, "step": 3},
    "loss.kappa": [0, 0.002, None],
}


def problems(mapping):
    with pytest.raises(ConfigError) as caught:
        Space.from_dict(mapping)
    return [str(problem) for problem in caught.value.problems]


def test_a_nested_space_asks_only_for_what_is_open():
    trial = FixedTrial(
        {
            "optimizer.name": "sgd",
            "optimizer.lr | optimizer.name=sgd": 0.05,
            "schedule | optimizer.name=sgd": "decay",
            "optimizer.momentum | optimizer.name=sgd | schedule=decay": 0.3,
            "model.layers": 4,
            "loss.kappa": 0.002,
        }
    )
    params = suggest(trial, Space.from_dict(NESTED))
    assert params == {
        "optimizer.name": "sgd",
        "optimizer.lr": 0.05,
        "schedule": "decay",
        "optimizer.momentum": 0.3,
        "model.layers": 4,
        "loss.kappa": 0.002,
    }
    assert trial.distributions["model.layers"] == IntDistribution(1, 7, step=3)
    assert trial.distributions["optimizer.lr | optimizer.name=sgd"] == FloatDistribution(1e-2, 1.0, log=True)


def test_a_real_study_never_gives_one_name_two_distributions():
    space, study = Space.from_dict(NESTED), optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    seen = {}
    for _ in range(60):
        trial = study.ask()
        params = suggest(trial, space)
        for name, distribution in trial.distributions.items():
            assert seen.setdefault(name, distribution) == distribution
        assert ("optimizer.momentum" in params) == (params.get("schedule") == "decay")
        assert optuna_params(space, params) == trial.params
        study.tell(trial, params["optimizer.lr"])
    assert len(seen) == 7  # all branches were visited


def test_enqueued_params_come_back_as_they_were():
    space, study = Space.from_dict(NESTED), optuna.create_study()
    for params in combinations(space):
        study.enqueue_trial(optuna_params(space, params))
        trial = study.ask()
        assert suggest(trial, space) == params
        study.tell(trial, 0.0)


def test_values_that_are_no_scalars_are_stored_as_json_and_decoded():
    schedules = ["constant", {"name": "decay", "factors": [0.5], "boundaries": [11]}]
    space = Space.from_dict({"schedule": schedules, "model.conditional": [False, True]})
    found = []
    for i, flag in itertools.product(range(2), (False, True)):
        params = {"schedule": schedules[i], "model.conditional": flag}
        stored = optuna_params(space, params)
        assert json.loads(json.dumps(stored)) == stored
        assert all(isinstance(value, (str, bool)) for value in stored.values())
        found.append(suggest(FixedTrial(stored), space) == params)
    assert found == [True] * 4


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optimizer.name": "adam"}, "no value for 'optimizer.lr'"),
        ({"optimizer.name": "adamw", "optimizer.lr": 1e-3}, "saw 'adamw', expected one of ['adam', 'sgd']"),
        ({"optimizer.name": "adam", "optimizer.lr": 0.5}, "saw 0.5, expected a number from 0.0001 to 0.01"),
        ({"optimizer.name": "adam", "optimizer.lr": 1e-3, "schedule": "decay"}, "saw schedule, expected only"),
    ],
)
def test_params_outside_the_space_are_refused(params, message):
    with pytest.raises(ValueError) as caught:
        optuna_params(Space.from_dict({"optimizer.name": NESTED["optimizer.name"]}), params)
    assert message in str(caught.value)


def test_apply_merges_sections_and_leaves_the_base_alone():
    base = {"schedule": "decay", "optimizer": {"name": "sgd", "lr": 0.5}, "train": {"steps": 7}}
    params = {"optimizer.lr": 0.25, "schedule.factors": [0.1, 0.2], "optimizer": {"momentum": 0.9, "lr": 3.0}}
    assert apply(base, params) == {
        "schedule": {"name": "decay", "factors": [0.1, 0.2]},
        "optimizer": {"name": "sgd", "lr": 0.25, "momentum": 0.9},  # the key is more specific than its section
        "train": {"steps": 7},
    }
    assert base == {"schedule": "decay", "optimizer": {"name": "sgd", "lr": 0.5}, "train": {"steps": 7}}
    assert apply(base, {"schedule": "constant"})["schedule"] == {"name": "constant"}


def test_the_kind_of_a_number_is_that_of_the_key():
    space = Space.from_dict({"model.layers": {"low": 2, "high": 5}, "optimizer.lr": {"low": 1, "high": 5}})
    params = suggest(FixedTrial({"model.layers": 3, "optimizer.lr": 2}), space)
    layers, lr = space.dimensions
    assert layers.integer
    assert not lr.integer
    assert type(params["model.layers"]) is int
    assert type(lr.low) is float


def test_every_key_of_the_configuration_is_searchable_but_those_all_trials_share():
    config = TrainConfig().to_dict()
    leaves = {f"{s}.{key}" for s, section in config.items() if isinstance(section, dict) for key in section}
    shared = {path for path in leaves if path.startswith(("data.", "evaluate."))}
    found = {path for path in searchable() if "." in path}
    of_models = {f"model.{key}" for kind in ModelConfig.ours().values() for key in kind.settings.model_fields}
    assert leaves - shared <= found  # those of the usual method, and of all others:
    assert {path for path in found if path.startswith("model.")} == of_models | {"model.name"}
    assert not {path for path in found if path.startswith(("data.", "evaluate."))}
    assert [own_keys().get(path) for path in ("model.layers", "loss.kappa", "nope", "model.nope")] == [
        int,
        float,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"optimizer.lrr": [1]}, "optimizer.lrr: names no key of the configuration; did you mean 'optimizer.lr'?"),
        ({"lr": [1]}, "did you mean 'optimizer.lr'?"),
        ({"seed": [1]}, "expected another key, or search.seed"),
        ({"evaluate.samples": [16, 32]}, "all trials of a sweep share"),
        ({"optimizer.lr": {"low": 2.0, "high": 1.0}}, "empty range, low 2.0 above high 1.0"),
        ({"optimizer.lr": {"low": 0, "high": 1.0, "log": True}}, "low: saw 0, expected a number > 0"),
        ({"optimizer.lr": {"low": 0.1, "hihg": 1.0}}, "hihg: unknown key; did you mean 'high'?"),
        ({"optimizer.lr": {"low": 0.1}}, "high is missing"),
        ({"optimizer.lr": {"low": 0.1, "high": "1"}}, "high: saw '1', expected a number"),
        ({"optimizer.lr": {"low": 0.1, "high": float("inf")}}, "high: saw inf, expected a number"),
        ({"optimizer.lr": {"low": 0.1, "high": 1, "step": 0.2, "log": True}}, "step: saw 0.2, expected none"),
        ({"optimizer.lr": {"low": 0.1, "high": 1, "step": 0.2}}, "which no step reaches; expected 0.9"),
        ({"optimizer.lr": {"low": 0.1, "high": 1, "step": -1}}, "step: saw -1, expected a number > 0"),
        ({"optimizer.lr": {"low": 0.0, "high": 1e308, "step": 1e-308}}, "fewer than 1e15 steps"),
        ({"optimizer.lr": {"low": 0.1, "high": 1, "log": "yes"}}, "log: saw 'yes', expected true or false"),
        ({"model.layers": {"low": 1.5, "high": 3}}, "low: saw 1.5, expected an integer"),
        ({"optimizer.name": {"low": 1, "high": 3}}, "optimizer.name is not a number"),
        (
            {"optimizer.lr": {"min": 1, "max": 3}},
            "expected a space of its own for each choice, or {low: ..., high: ...}",
        ),
        ({"optimizer.lr": []}, "saw [], expected a list of choices"),
        ({"optimizer.lr": [float("nan")]}, "saw [nan], expected a list of choices"),
        ({"optimizer": [{"lr": 1, None: 2}]}, "expected a list of choices"),
        ({"optimizer.lr": 3}, "saw 3, expected a list of choices"),
        ({"optimizer.lr": [1, 2, 1.0]}, "1.0 more than once"),
        ("optimizer.lr", "saw 'optimizer.lr', expected a mapping"),
    ],
)
def test_mistakes_are_told_with_what_is_valid(mapping, message):
    (found,) = problems(mapping)
    assert message in found


def test_one_key_is_set_by_one_dimension_at_a_time():
    lr = {"optimizer.lr": [0.1, 0.2]}
    assert "already set by space.optimizer.lr" in problems({**lr, "schedule": {"decay": lr, "constant": None}})[0]
    assert "optimizer.name is already set" in problems({"optimizer": ["adam"], "optimizer.name": ["sgd"]})[0]
    branches = Space.from_dict({"schedule": {"decay": lr, "constant": lr}})  # branches exclude each other
    assert count_combinations(branches) == 4


def test_combinations_are_those_of_a_nested_loop():
    expected = [
        {**head, "model.layers": layers, "loss.kappa": kappa}
        for head in (
            *({"optimizer.name": "adam", "optimizer.lr": lr} for lr in (1e-4, 1e-2)),
            *(
                {"optimizer.name": "sgd", "optimizer.lr": lr, **schedule}
                for lr in (1e-2, 1.0)
                for schedule in (
                    {"schedule": "constant"},
                    *({"schedule": "decay", "optimizer.momentum": m} for m in (0.0, 0.9)),
                )
            ),
        )
        for layers in (1, 7)
        for kappa in (0.0, 0.002, None)
    ]
    space = Space.from_dict(NESTED)
    assert list(combinations(space)) == expected
    assert count_combinations(space) == len(expected) == 48
    assert list(combinations(Space())) == list(variations(Space())) == [{}]


def test_variations_show_every_value_of_every_dimension():
    space = Space.from_dict(NESTED)
    varied, everything = list(variations(space)), list(combinations(space))
    assert {(key, value) for params in varied for key, value in params.items()} == {
        (key, value) for params in everything for key, value in params.items()
    }
    assert all(params in everything for params in varied)
    assert len(varied) == 6 + 1 + 2


def test_the_grid_holds_each_configuration_once():
    space = Space.from_dict(
        {
            "optimizer.name": {"adam": {"optimizer.lr": [0.1, 0.2, 0.3]}, "sgd": {"optimizer.momentum": [0.0, 0.9]}},
            "model.layers": {"low": 1, "high": 7, "step": 3},
            "train.ema_decay": {"low": 0.1, "high": 0.3, "step": 0.1},
        }
    )
    points = grid(space)
    assert len(points) == len({json.dumps(point) for point in points}) == (3 + 2) * 3 * 3
    assert {point["train.ema_decay"] for point in points} == {0.1, 0.2, 0.3}  # not 0.30000000000000004
    assert {point["model.layers"] for point in points} == {1, 4, 7}


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"low": 0.1, "high": 1.0}, "continuous range from 0.1 to 1, expected a step"),
        ({"low": 0.0, "high": 1.0, "step": 1e-9}, "expected at most 10000"),
    ],
)
def test_a_grid_needs_few_points(dimension, message):
    with pytest.raises(ConfigError) as caught:
        grid(Space.from_dict({"optimizer.lr": dimension}))
    assert message in str(caught.value)


def test_a_space_as_json_shows_the_order_of_choices():
    space = Space.from_dict({"optimizer.name": {"sgd": {"optimizer.momentum": [0.5]}, "adam": None},
        "model.layers": [5, 3], "optimizer.lr": {"low": 1, "high": 2}})  # fmt: skip
    assert space.to_dict() == {
        "optimizer.name": {"choices": ["sgd", "adam"], "spaces": {"sgd": {"optimizer.momentum": [0.5]}, "adam": {}}},
        "model.layers": [5, 3],
        "optimizer.lr": {"low": 1.0, "high": 2.0, "log": False, "step": None},
    }
