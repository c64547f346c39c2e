"""Every sweep file of the repository: its first trial of each arm, shrunken, on prepared miniatures of its data."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from through import go_through

from aiqn_core.config import ModelConfig
from aiqn_core.prepared import writing
from aiqn_core.steps import learning_rate
from orchestrator.runs import RunFolder
from orchestrator.sweep import load_sweep

pytestmark = pytest.mark.slow

SWEEPS = sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml"))
SHAPES = {"cifar10": (3, 32, 32), "imagenet32": (3, 32, 32), "celeba": (3, 64, 64)}
SMALL = {"layers": 1, "planes": 6, "kernel": 3, "skip_planes": 9}


@pytest.fixture(autouse=True)
def miniatures(tmp_path, monkeypatch):
    """A few random images in the place where `aiqn data prepare` puts the real ones."""
    monkeypatch.setenv("AIQN_DATA", str(tmp_path / "data"))
    random = np.random.RandomState(0)
    for name, shape in SHAPES.items():
        with writing(tmp_path / "data" / name, {"name": name, "classes": []}, shuffle=False) as writer:
            for split, count in (("train", 23), ("test", 11)):
                images = random.randint(0, 256, (count, *shape), np.uint8)
                writer.append(split, images, random.randint(0, 5, count))


def shrunken(path):
    """The settings that make a sweep of days one of seconds, and leave its structure."""
    content = yaml.safe_load(path.read_text())
    settings = {"train.steps": 2, "train.batch_size": 3, "search.trials": 1, "evaluate.every": 2}
    settings |= {"evaluate.samples": 6, "resources.cpu": 1, "resources.gpu": 0, "search.pruner": "none"}
    for name, arm in content["arms"].items():
        if arm["model"]["name"] in ("pixelcnn", "pixeliqn"):
            settings |= {f"arms.{name}.model.{key}": value for key, value in SMALL.items()}
        if arm["model"]["name"] in ("pixelcnn", "pixeliqn", "vae", "aiqn_vae"):
            settings |= {"evaluate.splits": 2, "evaluate.size": 64, "evaluate.reference": 12}
    if "final" in content:
        settings |= {"final.steps": 3, "final.top": 1, "final.seeds": "[4]", "final.evaluate": "{samples: 7, every: 3}"}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_first_trial_of_each_arm_and_its_final(tmp_path, path):
    sweep = load_sweep(path, shrunken(path))
    run = RunFolder(tmp_path / "run")
    runs = go_through(sweep, run)
    stages = ("search", "final") if sweep.final else ("search",)
    assert {(run.arm, run.stage) for run in runs} == {(arm, stage) for arm in sweep.arms for stage in stages}
    assert {run.state for run in runs} == {"completed"}
    assert all(run.curve(sweep.search.objective.metric) for run in runs)


PAPER = [path for path in SWEEPS if path.stem.startswith(("cifar10", "imagenet32"))]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_models_of_the_papers_sweeps_have_the_papers_sizes(path):
    size = "large" if path.stem in ("imagenet32-large", "imagenet32-conditional") else "small"
    for arm in load_sweep(path).arms.values():
        model = ModelConfig(**arm.base["model"])
        preset = ModelConfig.preset(size, name=model.name, tau_mode=model.tau_mode, conditional=model.conditional)
        assert model == preset
        assert model.conditional == (path.stem == "imagenet32-conditional")
        assert arm.base["train"]["batch_size"] == (32 if size == "small" else 128)
        assert arm.base["train"]["ema_decay"] == 0.9999


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_gpu_hours_are_those_of_the_papers_speed(path):
    """Small models: 200K steps a day on one P100; large: half of that on 16 (appendix)."""
    sweep = load_sweep(path)
    finals = sweep.final.top * len(sweep.final.seeds)
    steps = sum(
        sweep.search.trials * arm.base["train"]["steps"] + finals * sweep.final.steps for arm in sweep.arms.values()
    )
    large = sweep.arms["pixeliqn"].base["model"]["layers"] == 20 if "pixeliqn" in sweep.arms else False
    hours = steps / 100_000 * 24 * 16 if large else steps / 200_000 * 24
    told = re.search(r"([\d,]+) P100-hours", path.read_text())
    assert int(told[1].replace(",", "")) == round(hours)


def test_the_papers_main_sweep_is_the_papers_experiment():
    """The numbers of its appendix, "Hyperparameter Tuning and Evaluation"."""
    sweep = load_sweep(SWEEPS[0].parent / "cifar10-paper.yaml")
    assert sweep.search.trials == 500
    assert (sweep.final.steps, sweep.final.evaluate["samples"]) == (300_000, 10_000)
    assert sweep.final.steps // sweep.final.evaluate["every"] >= 10  # several points of a curve
    for arm in sweep.arms.values():
        assert (arm.base["train"]["steps"], arm.base["train"]["ema_warmup"]) == (100_000, False)
        assert (arm.base["evaluate"]["samples"], arm.base["evaluate"]["reference"]) == (2500, 10_000)
    iqn, cnn = sweep.arms["pixeliqn"], sweep.arms["pixelcnn"]
    params = {"optimizer.name": "adam", "optimizer.lr": 1e-4, "loss.kappa": 0.002}
    assert sweep.config("pixeliqn", params, 0).schedule.name == "constant"
    assert {"optimizer.name", "loss.kappa"} <= set(iqn.space.to_dict())
    assert {"optimizer.name", "schedule"} <= set(cnn.space.to_dict())
    decay = sweep.final_config("pixelcnn", {"optimizer.name": "rmsprop", "optimizer.lr": 1e-4, "schedule": "decay"}, 0)
    rates = [learning_rate(1e-4, decay.schedule, step, 300_000) for step in (0, 119_999, 120_000, 179_999, 180_000)]
    assert rates == pytest.approx([1e-4, 1e-4, 3e-5, 3e-5, 1e-5])


@pytest.mark.parametrize("path", [*PAPER, SWEEPS[0].parent / "toy2d.yaml"], ids=lambda path: path.stem)
def test_it_tells_what_the_paper_found(path):
    assert re.search(r"^# The paper('s result|'s claim| conditions)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_opens_with_its_question_its_command_and_the_best_result_so_far(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert head[0] == "# yaml-language-server: $schema=sweep.schema.json"
    assert head[1].endswith("?") or "?" in head[1]
    assert any(f"aiqn sweep sweeps/{path.name}" in line for line in head)
    assert any(line.startswith("# Best result so far") for line in head)
