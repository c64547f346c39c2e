"""Every sweep file of the repository: its first trial of each arm, shrunken, on prepared miniatures of its data."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from aiqn_core.prepared import writing
from orchestrator.ledger import Ledger
from orchestrator.runs import RunFolder, load_runs
from orchestrator.sweep import load_sweep
from orchestrator.trial import run_trial

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
    settings |= {"evaluate.samples": 6, "resources.cpu": 1, "resources.gpu": 0}
    for name, arm in content["arms"].items():
        if arm["model"]["name"] in ("pixelcnn", "pixeliqn"):
            settings |= {f"arms.{name}.model.{key}": value for key, value in SMALL.items()}
            settings |= {"evaluate.splits": 2, "evaluate.size": 32, "evaluate.reference": 12}
    if "final" in content:
        settings |= {"final.steps": 3, "final.top": 1, "final.seeds": "[4]", "final.evaluate": "{samples: 7, every: 3}"}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_first_trial_of_each_arm_and_its_final(tmp_path, path):
    sweep = load_sweep(path, shrunken(path))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    ledger = Ledger(run, sweep)
    while not ledger.complete:
        assignment = ledger.next()
        for record in run_trial(assignment, run, 1):
            ledger.report(assignment.id, record)
        ledger.close(assignment.id)
    runs = load_runs(run.path)
    stages = ("search", "final") if sweep.final else ("search",)
    assert {(run.arm, run.stage) for run in runs} == {(arm, stage) for arm in sweep.arms for stage in stages}
    assert {run.state for run in runs} == {"completed"}
    assert all(run.curve(sweep.search.objective.metric) for run in runs)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_opens_with_its_question_its_command_and_the_best_result_so_far(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert head[0] == "# yaml-language-server: $schema=sweep.schema.json"
    assert head[1].endswith("?") or "?" in head[1]
    assert any(f"aiqn sweep sweeps/{path.name}" in line for line in head)
    assert any(line.startswith("# Best result so far") for line in head)
