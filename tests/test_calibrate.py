"""Costs and throughput of a tiny training; what is recommended from curves whose answer is plain."""

import pytest

from aiqn_core.calibrate import Packing, describe, measure_cost, measure_packing, recommend
from aiqn_core.config import ConfigError, TrainConfig

TINY = {
    "data": "mixture2d",
    "model": {"name": "aiqn", "hidden": [5, 7]},
    "evaluate": {"samples": 11, "reference": 13},
}


@pytest.mark.parametrize(
    ("rates", "trials"),
    [([10, 19, 24, 24.5], 3), ([10, 10.4, 10.3], 1), ([10, 8], 1), ([5, 10, 0], 2), ([0, 7], 2)],
)
def test_the_fewest_trials_within_five_per_cent_of_the_best(rates, trials):
    measured = [Packing(count, rate) for count, rate in enumerate(rates, 1)]
    assert recommend(measured).trials == trials
    assert f"recommended: {trials} trials at once" in describe(measured)


def test_what_does_not_fit_is_said():
    assert "3 at once: do not fit" in describe([Packing(1, 5.0), Packing(3, 0.0)])


def test_a_tiny_training_is_measured_alone_and_beside_another():
    config = TrainConfig.from_dict(TINY)
    cost = measure_cost(config, steps=3)
    assert 0 < cost.step_seconds < 60
    assert 0 < cost.evaluate_seconds < 600
    (both,) = measure_packing(config, counts=(2,), seconds=0.1, threads=2)
    assert both.trials == 2
    assert both.steps_per_second > 0


def test_data_that_are_missing_are_not_taken_for_memory():
    config = TrainConfig.from_dict({"data": {"name": "cifar10", "path": "/nowhere"}})
    with pytest.raises(ConfigError, match="/nowhere"):
        measure_packing(config, counts=(1,), seconds=0.1)
