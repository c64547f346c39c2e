import json
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_files import SMALL

from aiqn_core.config import TrainConfig
from orchestrator.sections import differences
from orchestrator.seeds import trial_seed

ROOT = Path(__file__).parent.parent


def test_the_configuration_of_a_trial(load):
    sweep = load(SMALL)
    config = sweep.config("one", {"optimizer.lr": 3e-3}, 17)
    mapping = {
        "model": {"name": "pixelcnn", "layers": 2},
        "train": {"steps": 7},
        "evaluate": {"every": 5, "samples": 11},
        "optimizer": {"lr": 3e-3},
        "seed": 17,
    }
    assert config == TrainConfig.from_dict(mapping)
    assert sweep.final_config("one", {"optimizer.lr": 3e-3}, 5) == TrainConfig.from_dict(
        {**mapping, "train": {"steps": 13}, "evaluate": {**mapping["evaluate"], "extrapolate": True}, "seed": 5}
    )


def test_the_evaluation_of_the_finals_is_laid_over_that_of_the_arm(load):
    text = SMALL.replace("steps: 13}", "evaluate: {samples: 23, initial: true}}")
    config = load(text).final_config("two", {"optimizer.name": "sgd"}, 5)
    assert (config.evaluate.every, config.evaluate.samples, config.evaluate.initial) == (5, 23, True)
    assert config.train.steps == 7


def test_the_resolved_sweep_is_json_that_says_everything(load):
    resolved = load(SMALL).to_dict()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["search"]["pruner"] == {"name": "none"}
    assert resolved["final"]["seeds"] == [5, 11]
    assert resolved["arms"]["one"]["space"]["optimizer.lr"] == {"low": 1e-4, "high": 1e-2, "log": True, "step": None}
    minimal = load("name: m\narms: {a: {model: pixelcnn}}").to_dict()
    assert minimal["final"] is None
    assert minimal["tracking"] == {"uri": None}


def test_trial_seeds_are_a_pure_function_of_31_bits():
    seeds = {(s, arm, n): trial_seed(s, arm, n) for s in (0, 5) for arm in ("a", "b") for n in range(50)}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert max(seeds.values()) > 2**30
    code = "from orchestrator.seeds import trial_seed; print(trial_seed(5, 'b', 11))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(again.stdout) == trial_seed(5, "b", 11)


def test_the_direction_follows_the_metric(load):
    def objective(text):
        return load(SMALL.replace("{trials: 3}", f"{{trials: 3, objective: {text}}}")).search.objective

    assert objective("{metric: is_lite0_mean}").direction == "maximize"
    assert objective("{metric: kd_lite0}").direction == "minimize"
    assert objective("{metric: is_lite0_mean, direction: maximize}") == objective("is_lite0_mean")


def changed(load, *replacements, start=SMALL):
    text = start
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return differences(json.loads(json.dumps(load(start).to_dict())), load(text).to_dict())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 3", "trials: 7"),
        ("# Is", "# Was"),
        ("top: 2", "top: 3"),
        ("[5, 11]", "[5, 11, 7]"),
        ("steps: 13", "steps: 17"),
        (
            "train: {steps: 7}",
            'train: {steps: 7}\nresources: {cpu: 2}\nbudget: {hours: 5}\ntracking: {uri: "http://x"}',
        ),
        ("  two:", "  three: {model: pixelcnn}\n  two:"),
    ],
)
def test_additions_continue_a_sweep(load, old, new):
    assert changed(load, (old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("trials: 3", "trials: 2", ["search.trials"]),
        ("{trials: 3}", "{trials: 3, seed: 5}", ["search.seed"]),
        ("{trials: 3}", "{trials: 3, sampler: {name: tpe, n_startup_trials: 7}}", ["search.sampler.n_startup_trials"]),
        ("steps: 7", "steps: 11", ["arms.one.train.steps", "arms.two.train.steps"]),
        ("high: 1e-2", "high: 1e-1", ["arms.one.space.optimizer.lr.high"]),
        ("beta1: [0.5, 0.9]", "beta1: [0.9, 0.5]", ["arms.two.space.optimizer.name.spaces.adam.optimizer.beta1"]),
        ("  two:", "  deux:", ["arms.two"]),
        ("top: 2", "top: 1", ["final.top"]),
        ("[5, 11]", "[11, 5]", ["final.seeds"]),
        ("[5, 11]", "[5]", ["final.seeds"]),
        ("steps: 13", "steps: 11", ["final.steps"]),
        (", steps: 13", "", ["final.steps"]),
        ("steps: 13", "steps: 13, evaluate: {seed: 3}", ["final.evaluate.seed"]),
        ("final: {top: 2, seeds: [5, 11], steps: 13}\n", "", ["final"]),
    ],
)
def test_changes_of_meaning_are_named(load, old, new, keys):
    assert changed(load, (old, new)) == keys


def test_finals_may_be_added_and_the_order_of_choices_counts(load):
    without = SMALL.replace("final: {top: 2, seeds: [5, 11], steps: 13}\n", "")
    assert differences(load(without).to_dict(), load(SMALL).to_dict()) == []
    text = without.replace(
        "        adam: {optimizer.beta1: [0.5, 0.9]}\n        sgd:\n", "        sgd:\n        adam:\n"
    )
    assert "arms.two.space.optimizer.name.choices" in differences(load(without).to_dict(), load(text).to_dict())


def test_finals_on_images_are_extrapolated_unless_told_otherwise(load):
    def extrapolated(text):
        sweep = load(text)
        return sweep.config("one", {}, 5).evaluate.extrapolate, sweep.final_config("one", {}, 5).evaluate.extrapolate

    text = SMALL.replace("steps: 13}", "EVALUATE}")
    assert extrapolated(text.replace("EVALUATE", "steps: 13")) == (False, True)
    assert extrapolated(text.replace("EVALUATE", "evaluate: {extrapolate: false}")) == (False, False)
    vectors = "name: v\ndata: banana2d\nsearch: {objective: {metric: energy_distance}}\narms: {one: {model: aiqn}}\n"
    assert extrapolated(vectors + "final: {top: 1}") == (None, None)
