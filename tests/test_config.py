import json

import pytest

from aiqn_core.config import (
    ConfigError,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    config_hash,
    dotted,
    settled,
)


def problems(mapping):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(mapping)
    return [str(problem) for problem in caught.value.problems]


def test_a_configuration_survives_json():
    mapping = {
        "model": {"name": "pixelcnn", "layers": 7},
        "optimizer": {"name": "rmsprop", "lr": 1},
        "schedule": {"name": "decay", "boundaries": [5, 11], "factors": [0.5, 0.25]},
        "train": {"steps": 13},
        "seed": 3,
    }
    config = TrainConfig.from_dict(mapping)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.optimizer.lr == 1.0
    assert config.schedule.boundaries == (5, 11)


def test_every_mistake_is_named_at_once_with_what_is_valid():
    found = problems(
        {
            "optimiser": {},
            "optimizer": {"name": "adm", "lr": -1},
            "train": {"steps": True, "batch_size": "many"},
            "model": 3,
            "loss": {"kappa": float("nan")},
        }
    )
    assert len(found) == 7
    assert found[0].startswith("optimiser: unknown key; did you mean 'optimizer'? valid: data, model,")
    assert found[1].startswith("optimizer.name: saw 'adm'; did you mean 'adam'? valid: rmsprop, rmsprop_tf, adam, sgd,")
    assert found[2] == "optimizer.lr: saw -1, expected a number > 0"
    assert found[3] == "train.steps: saw True, expected an integer >= 1"
    assert found[4] == "train.batch_size: saw 'many', expected an integer >= 1"
    assert "expected a mapping" in found[5]
    assert found[6] == "loss.kappa: saw nan, expected a number >= 0"


@pytest.mark.parametrize(
    ("mapping", "path"),
    [
        ({"model": {"kernel": 4}}, "model.kernel"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "optimizer.momentum"),
        ({"schedule": {"name": "constant", "boundaries": [3]}}, "schedule.boundaries"),
        ({"schedule": {"name": "decay", "boundaries": [5, 3]}}, "schedule.boundaries"),
        ({"schedule": {"name": "decay", "boundaries": [5], "factors": [0.1, 0.2]}}, "schedule.factors"),
        ({"schedule": {"name": "decay", "factors": [0.1, 0.2, 0.3]}}, "schedule.boundaries"),
        ({"model": {"name": "pixelcnn"}, "loss": {"kappa": 0.1}}, "loss.kappa"),
        ({"evaluate": {"samples": 5, "splits": 7}}, "evaluate.splits"),
        ({"schedule": "decai"}, "schedule.name"),
        ({"train": {"ema_decay": 1.0}}, "train.ema_decay"),
        ({"data": {"name": 5}}, "data.name"),
    ],
)
def test_what_does_not_fit_together_is_refused(mapping, path):
    (problem,) = problems(mapping)
    assert problem.startswith(f"{path}: ")


def test_a_word_stands_for_a_section_with_that_name():
    config = TrainConfig.from_dict({"schedule": "decay", "optimizer": "sgd"})
    assert config.schedule == ScheduleConfig("decay")
    assert config.optimizer == OptimizerConfig("sgd")


def test_defaults_of_the_named_optimizer_are_recorded():
    assert TrainConfig.from_dict({"optimizer": "rmsprop"}).to_dict()["optimizer"] == {
        "name": "rmsprop",
        "lr": 1e-4,
        "momentum": 0.0,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "centered": False,
    }


def test_kappa_is_completed_for_pixeliqn_only():
    assert TrainConfig.from_dict({"model": "pixeliqn"}).loss.kappa == 0.002
    assert TrainConfig.from_dict({"model": "pixeliqn", "loss": {"kappa": 0}}).loss.kappa == 0.0
    assert TrainConfig.from_dict({"model": "pixelcnn"}).to_dict()["loss"] == {}


def test_presets_are_the_papers_sizes():
    small, large = (ModelConfig.preset(size, name="pixelcnn") for size in ("small", "large"))
    assert (small.layers, small.planes, small.kernel, small.skip_planes) == (15, 128, 5, 1024)
    assert (large.layers, large.planes, large.kernel, large.skip_planes) == (20, 256, 5, 1024)
    with pytest.raises(ConfigError, match="'smal'; did you mean 'small'"):
        ModelConfig.preset("smal", name="pixelcnn")


def test_the_hash_names_the_values_and_not_their_order():
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_dotted_lists_the_leaves():
    assert dict(dotted({"a": {"b": {"c": 5}, "d": 7}, "e": 11})) == {"a.b.c": 5, "a.d": 7, "e": 11}


def test_what_an_earlier_version_did_not_know_is_no_difference():
    config = TrainConfig.from_dict({"data": "digits", "train": {"steps": 70}}).to_dict()
    before = {**config, "evaluate": {k: v for k, v in config["evaluate"].items() if k not in ("keep_weights", "size")}}
    assert settled({**before, "evaluate": {**before["evaluate"], "size": 128}}) == settled(config)
    kept = {**config, "evaluate": {**config["evaluate"], "keep_weights": True}}
    assert settled(before) != settled(kept)
    assert settled(config) != settled({**config, "train": {**config["train"], "steps": 71}})


# As an earlier version recorded them: every key of every model, null where it is another's.
EARLIER_TRAIN = {
    "steps": 1000,
    "batch_size": 32,
    "ema_decay": 0.9999,
    "ema_warmup": True,
    "clip_norm": None,
    "log_every": None,
}
EARLIER_OF_IMAGES = {
    "every": 1000,
    "at": None,
    "samples": 512,
    "features": "lite0",
    "inception": None,
    "size": 128,
    "reference": 10000,
    "splits": 10,
    "extrapolate": False,
    "initial": False,
    "keep_weights": False,
    "seed": 0,
}
EARLIER = [
    {
        "data": {"name": "banana2d", "path": None},
        "model": {
            "name": "made",
            "layers": None,
            "planes": None,
            "kernel": None,
            "skip_planes": None,
            "out_hidden": None,
            "tau_mode": None,
            "trunk": None,
            "heads": None,
            "attention": None,
            "conditional": False,
            "hidden": [64, 64],
            "dependence": None,
            "components": 8,
            "latent": None,
            "latent_variance": None,
            "kl_weight": None,
            "detach": None,
        },
        "loss": {"kappa": None, "tau_sampling": None},
        "optimizer": {
            "name": "adam",
            "lr": 0.0001,
            "momentum": None,
            "alpha": None,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-08,
            "initial_accumulator": None,
        },
        "schedule": {"name": "decay", "boundaries": None, "factors": [0.3, 0.1]},
        "train": EARLIER_TRAIN,
        "evaluate": {
            "every": 1000,
            "at": None,
            "samples": 512,
            "features": None,
            "inception": None,
            "size": None,
            "reference": 10000,
            "splits": None,
            "extrapolate": None,
            "initial": False,
            "keep_weights": False,
            "seed": 0,
        },
        "seed": 0,
    },
    {
        "data": {"name": "digits", "path": None},
        "model": {
            "name": "vae",
            "layers": 4,
            "planes": 64,
            "kernel": 5,
            "skip_planes": None,
            "out_hidden": None,
            "tau_mode": None,
            "trunk": None,
            "heads": None,
            "attention": None,
            "conditional": False,
            "hidden": None,
            "dependence": None,
            "components": None,
            "latent": 32,
            "latent_variance": 1.0,
            "kl_weight": 2.0,
            "detach": None,
        },
        "loss": {"kappa": None, "tau_sampling": None},
        "optimizer": {
            "name": "sgd",
            "lr": 0.0001,
            "momentum": 0.0,
            "alpha": None,
            "beta1": None,
            "beta2": None,
            "eps": None,
            "initial_accumulator": None,
        },
        "schedule": {"name": "constant", "boundaries": None, "factors": None},
        "train": EARLIER_TRAIN,
        "evaluate": EARLIER_OF_IMAGES,
        "seed": 0,
    },
    {
        "data": {"name": "digits", "path": None},
        "model": {
            "name": "pixelcnn",
            "layers": 4,
            "planes": 32,
            "kernel": 5,
            "skip_planes": 128,
            "out_hidden": 0,
            "tau_mode": "causal",
            "trunk": "snail",
            "heads": 2,
            "attention": 2,
            "conditional": False,
            "hidden": None,
            "dependence": None,
            "components": None,
            "latent": None,
            "latent_variance": None,
            "kl_weight": None,
            "detach": None,
        },
        "loss": {"kappa": None, "tau_sampling": None},
        "optimizer": {
            "name": "adam",
            "lr": 0.0001,
            "momentum": None,
            "alpha": None,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-08,
            "initial_accumulator": None,
        },
        "schedule": {"name": "paper_decay", "boundaries": [120000, 180000], "factors": [0.3, 0.1]},
        "train": EARLIER_TRAIN,
        "evaluate": EARLIER_OF_IMAGES,
        "seed": 0,
    },
]


@pytest.mark.parametrize("recorded", EARLIER, ids=lambda recorded: recorded["model"]["name"])
def test_what_an_earlier_version_recorded_is_the_same_configuration(recorded):
    config = TrainConfig.from_dict(recorded)
    assert settled(recorded) == settled(config.to_dict())
    other = {**recorded, "optimizer": {**recorded["optimizer"], "lr": 0.5}}
    assert settled(other) != settled(config.to_dict())
