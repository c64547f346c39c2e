"""The table of metrics: what it says is what evaluations report."""

import dataclasses
import json
import math

import pytest

from aiqn_core.config import TrainConfig
from aiqn_core.metric import Metric, metric_of
from aiqn_core.training import train

PIXELS = {"layers": 1, "planes": 3, "skip_planes": 3, "kernel": 3}
TINY = {
    "pixelcnn": {"model": {"name": "pixelcnn", **PIXELS}},
    "pixeliqn": {"model": {"name": "pixeliqn", **PIXELS}},
    "vae": {"model": {"name": "vae", "layers": 1, "planes": 5, "latent": 2}},
    "aiqn_vae": {"model": {"name": "aiqn_vae", "layers": 1, "planes": 5, "latent": 2, "hidden": [7]}},
    "made": {"model": {"name": "made", "hidden": [7]}, "data": "banana2d"},
    "aiqn": {"model": {"name": "aiqn", "hidden": [7]}, "data": "banana2d"},
}
# What stands beside a metric (ends of its error bar, its spread and bias), and what is no measure of quality.
BESIDES = ("_low", "_high", "_bias", "_std", "_infinite", "seconds", "samples")


def config(name: str, **sections: dict) -> TrainConfig:
    evaluate = {"every": 2, "samples": 11, "reference": 13}
    if name not in ("made", "aiqn"):
        evaluate |= {"size": 64, "splits": 2}
    return TrainConfig.from_dict(
        {**TINY[name], "train": {"steps": 2, "batch_size": 5}, "evaluate": evaluate, **sections}
    )


def unit(name: str, metric: str = "loss", **sections: dict) -> str | None:
    return next(found.unit for found in config(name, **sections).metrics if found.name == metric)


@pytest.mark.parametrize("name", TINY)
def test_every_number_of_an_evaluation_is_in_the_table(name):
    *_, last = train(config(name))
    levels = [f"calibration_{level}" for level in ("05", "25", "50", "75", "95")]
    reported = {key for key in last.metrics if not key.endswith(BESIDES) and key not in levels}
    assert reported == {metric.name for metric in config(name).metrics}
    assert all(metric.low <= last.metrics[metric.name] <= metric.high for metric in config(name).metrics)


def test_the_losses_of_different_methods_have_different_units():
    units = [unit(name) for name in TINY]
    assert len(set(units)) == len(units)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("pixeliqn", {"loss": {"kappa": 0.3}}),
        ("pixeliqn", {"loss": {"tau_sampling": "stratified"}}),
        ("aiqn", {"loss": {"kappa": 0.3}}),
        ("aiqn_vae", {"loss": {"kappa": 0.3}}),
        *(
            (name, {"model": {**TINY[name]["model"], key: value}})
            for name, key, value in [
                ("vae", "kl_weight", 0.7),
                ("vae", "latent_variance", 0.7),
                ("aiqn_vae", "kl_weight", 0.7),
                ("aiqn_vae", "latent_variance", 0.7),
                ("aiqn_vae", "detach", False),
            ]
        ),
    ],
)
def test_a_setting_that_enters_the_loss_is_in_its_unit(name, section):
    assert unit(name, **section) != unit(name)
    assert unit(name, config(name).metrics[0].name, **section) == unit(name, config(name).metrics[0].name)


def test_facts_are_plain_json_and_come_back():
    for metric in (Metric("a", "maximize", None, False), Metric("b", "minimize", "nats", low=-3, high=7, beside=True)):
        facts = json.loads(json.dumps(metric.facts(), allow_nan=False))
        assert metric_of({**facts, "of a later version": 5}) == metric
        assert facts.keys() == {field.name for field in dataclasses.fields(Metric)}
    assert metric_of({"name": "a", "direction": "minimize"}).high == math.inf
