"""The examples that are commands, at shrunken size: a sweep with rungs through Ray, a trial that is cut."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

from aiqn_core.command import keep_command
from aiqn_core.config import TrainConfig
from aiqn_core.data import load_data
from aiqn_core.training import Place, read_checkpoint, train_by_command
from orchestrator.replay import replay
from orchestrator.runs import RunFolder, load_runs
from orchestrator.status import status_lines
from orchestrator.sweep import load_sweep
from reports.html import write_report

ROOT = Path(__file__).parent.parent


def changed(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_a_sweep_parks_commands_at_rungs_and_no_reader_ever_runs_them(tmp_path):
    small = {"train.steps": 6, "train.batch_size": 7, "evaluate.every": 3, "evaluate.samples": 31}
    small |= {"evaluate.reference": 50, "search.trials": 3, "search.pruner": "{name: promote, first: 0.5, audit: 0}"}
    words = ["sweep", "examples/sklearn/sweep.yaml", "--runs", str(tmp_path), *changed(small)]
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunFolder(tmp_path / "sklearn")
    found = [one for one in load_runs(run.path) if one.arm == "mixture"]
    assert sorted(one.state for one in found) == ["completed", "parked", "parked"]
    assert {tuple(record["step"] for record in one.history) for one in found} == {(3,), (3, 6)}
    ended = next(one for one in found if one.state == "completed")
    assert ended.history[0]["energy_distance"] == min(one.history[0]["energy_distance"] for one in found)
    assert set(ended.params) == {"covariance", "components"}
    assert ended.config["command"]["values"] == {"floor": 1e-6, **ended.params}
    assert {one.config["command"]["hash"] for one in found} == {path.name for path in (run.path / "code").iterdir()}

    (script,) = (run.path / "code").glob("*/mixture.py")
    script.write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    assert any("mixture" in line for line in status_lines(run.path))
    page = write_report(run.path).read_text()
    assert "mixture" in page
    assert "covariance" in page
    assert replay(run.path, [{"name": "none"}])
    assert not (tmp_path / "was run").exists()


def test_the_gan_continues_from_its_own_checkpoint_with_the_same_numbers(tmp_path):
    file = ROOT / "examples" / "gan" / "sweep.yaml"
    evaluate = ["evaluate.every=2", "evaluate.samples=12", "evaluate.splits=2", "evaluate.reference=50"]
    sweep = load_sweep(file, ["train.steps=6", "evaluate.size=64", "final=null", *evaluate])
    config = sweep.config("gan", {"lr": 0.001, "width": 64}, 5)
    keep_command(config.to_dict()["command"], file.parent, tmp_path)
    data = load_data(config.data)
    whole = list(train_by_command(config, data, Place(tmp_path, tmp_path / "whole", 1), ()))
    cut = train_by_command(config, data, Place(tmp_path, tmp_path / "cut", 1), ())
    past = list(itertools.islice(cut, 1))
    cut.close()
    short = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    found = list(train_by_command(short, data, Place(tmp_path, tmp_path / "cut", 1), past))
    assert [progress.step for progress in found] == [2, 4, 6]
    names = ("loss", "critic_loss", "fd_lite0", "is_lite0_mean")
    assert [[one.metrics[n] for n in names] for one in found] == [[one.metrics[n] for n in names] for one in whole]
    weights = [read_checkpoint(tmp_path / name / "work" / "gan.pt")["networks"] for name in ("whole", "cut")]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    assert not list((tmp_path / "cut" / "work" / "reported").iterdir())
