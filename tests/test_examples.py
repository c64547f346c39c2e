"""The examples: what a newcomer starts from works, keeps its promises, and says in words what it is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from chaos import Driver, ended
from through import go_through

from aiqn_core.code import load_code
from aiqn_core.config import ModelConfig
from aiqn_core.metric import metric_of
from aiqn_core.models import build_model
from orchestrator.check import check_arms
from orchestrator.runs import RunFolder, load_runs
from orchestrator.sweep import load_sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = [path for name in ("flow", "diffusion", "own-data") for path in [ROOT / "examples" / name / "sweep.yaml"]]
SMALL = {"layers": 1, "planes": 6, "kernel": 3, "skip_planes": 9}


def shrunken(path):
    """The settings that make an example of minutes one of seconds, and leave its structure."""
    settings = {"train.steps": 4, "train.batch_size": 7, "evaluate.every": 2, "evaluate.samples": 11}
    settings |= {"evaluate.splits": 2, "evaluate.reference": 50, "search.trials": 2}
    settings |= {"final.steps": 5, "final.seeds": "[3]"}
    for name, arm in yaml.safe_load(path.read_text())["arms"].items():
        if "." not in arm["model"]["name"]:
            settings |= {f"arms.{name}.model.{key}": value for key, value in SMALL.items()}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_every_arm_keeps_its_promises(path):
    checked = list(check_arms(load_sweep(path, shrunken(path))))
    assert {one.arm: one.problems for one in checked} == {one.arm: [] for one in checked}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_a_shrunken_example_trains_from_search_to_finals(tmp_path, path):
    sweep, run = load_sweep(path, shrunken(path)), RunFolder(tmp_path / "run")
    runs = go_through(sweep, run)
    assert {run.state for run in runs} == {"completed"}
    assert {(run.arm, run.stage) for run in runs} == {(arm, s) for arm in sweep.arms for s in ("search", "final")}
    assert all(run.curve(sweep.search.objective.metric) for run in runs)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_can_be_read_in_five_minutes(path):
    code = next(path.parent.glob("*.py"))
    assert len(code.read_text().splitlines()) <= 110
    assert yaml.safe_load(path.read_text())["code"] == code.name


def test_the_readmes_method_is_whole_and_keeps_its_promises(tmp_path):
    text = (ROOT / "README.md").read_text().partition("## Your own method")[2].partition("\n## ")[0]
    assert len(text.splitlines()) <= 55
    code, sweep = (text.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "yaml"))
    (tmp_path / "gauss.py").write_text(code)
    (tmp_path / "gauss.yaml").write_text(sweep)
    loaded = load_sweep(tmp_path / "gauss.yaml", ["evaluate.reference=70"])
    assert {one.arm: one.problems for one in check_arms(loaded)} == {"made": [], "gauss": []}


def built(example, name, shape, **settings):
    code = load_code(next((ROOT / "examples" / example).glob("*.py")))
    torch.manual_seed(0)
    model = build_model(ModelConfig(name, code=code, **settings), shape)
    with torch.no_grad():
        for parameter in model.parameters():  # the last layers are zero at first
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def test_the_flows_density_is_that_of_its_jacobian():
    flow = built("flow", "flow.RealNVP", (1, 3, 2), couplings=5, width=7).double()
    y = torch.rand((4, 6), dtype=torch.float64)
    log_det = flow(y)[1]
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], y[i])
        assert float(jacobian.slogdet().logabsdet) == pytest.approx(log_det[i].item(), abs=1e-9)


def test_the_flow_samples_what_its_inverse_says():
    flow = built("flow", "flow.RealNVP", (1, 3, 2), couplings=5, width=7).double()
    noise = torch.rand((5, 1, 3, 2), dtype=torch.float64)
    x = flow.sample(noise).double().flatten(1)
    inner = (x > 0) & (x < 255)
    z = torch.special.ndtri(noise.flatten(1))
    ends = torch.stack([flow((x + shift) / 256)[0] for shift in (0, 1)])  # of the grey level that was drawn
    whole = inner.all(1)
    assert whole.any()
    assert (ends.sub(z)[:, whole].abs().min(0).values <= ends[1].sub(ends[0])[whole].abs() + 1e-6).all()


def test_the_diffusion_model_draws_the_mean_that_its_denoiser_knows():
    """With a denoiser that knows the one image, every sample is that image; with noise levels that fall to 0."""
    ddpm = built("diffusion", "ddpm.DDPM", (1, 3, 5), timesteps=11, width=4, blocks=1)
    assert float(ddpm.a[0]) == 1
    assert (ddpm.a.diff() < 0).all()
    image = torch.randint(0, 256, (1, 3, 5), dtype=torch.uint8)
    x0 = image / 127.5 - 1

    class Knows(torch.nn.Module):
        def forward(self, x, time):
            a = ddpm.a[(time * 11).round().long()].view(-1, 1, 1, 1)
            return (x - a.sqrt() * x0) / (1 - a).sqrt()

    ddpm.network = Knows()
    noise = torch.rand((7, *ddpm.noise()))
    assert (ddpm.sample(noise) == image).all()
    assert float(ddpm.loss(image.expand(7, -1, -1, -1), noise, None)) == pytest.approx(0, abs=1e-6)


def test_a_real_sweep_of_an_example_is_killed_continued_and_read_without_its_code(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    source = ROOT / "examples" / "own-data"
    (folder / "own.py").write_text((source / "own.py").read_text())
    text = (source / "sweep.yaml").read_text()
    options = [word for setting in shrunken(source / "sweep.yaml") for word in ("--set", setting)]
    options += [f"--set={key}" for key in ("train.steps=40", "evaluate.every=10", "final.steps=20")]
    run = RunFolder(folder / "runs" / "example-own-data")
    with Driver(folder, text, *options) as driver:
        driver.wait_for(lambda: ended(run) >= 1)
        driver.process.send_signal(signal.SIGKILL)
        driver.process.wait()
    with Driver(folder, text, *options) as driver:
        driver.finish()
    runs = load_runs(run.path)
    assert {one.state for one in runs} == {"completed"}
    assert len(runs) == 2 * 2 + 2
    facts = {
        name: metric_of(fact) for name, fact in json.loads(run.sweep_json.read_text())["metrics"]["pixelcnn"].items()
    }
    assert facts["ink_distance"].unit == "grey levels"
    assert {one.provenance["protocol"]["extractor"] for one in runs} == {"edges"}

    for kept in run.code.rglob("own.py"):
        kept.write_text("raise SystemExit('imported')")
    (folder / "own.py").write_text("raise SystemExit('imported')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["status"], ["report"], ["replay", "--pruner", "median"]):
        command = [sys.executable, "-m", "orchestrator.cli", words[0], str(run.path), *words[1:]]
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        assert "imported" not in found.stdout + found.stderr
    assert "fd_edges" in (run.report / "index.html").read_text()
