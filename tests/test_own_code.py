"""Somebody's own classes: what a name reaches, what a mistake in them says, and who never imports them."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from aiqn_core.checking import method_problems
from aiqn_core.code import code_digest, keep, load_code, load_kept, loaded
from aiqn_core.config import ConfigError, TrainConfig, key_types, settled
from aiqn_core.training import train
from orchestrator.check import check_arms, configurations
from orchestrator.document import SweepError
from orchestrator.space import Space, covering, optuna_params
from orchestrator.sweep import load_sweep

ROOT = Path(__file__).parent.parent
FLOW = """
import torch
from pydantic import BaseModel
from torch import nn

from aiqn_core.data import vectors
from aiqn_core.metric import Metric
from os.path import join as Path


class Shift(nn.Module):
    class Settings(BaseModel):
        width: int = 8
        tail: float = 1.0

    metrics = (Metric("nll", "minimize", unit="nats per vector"),)
    loss_unit = "nats per vector"
    data = "vectors"

    def __init__(self, settings, shape, num_classes):
        super().__init__()
        self.shape = shape
        self.scale = nn.Parameter(torch.zeros(shape))
        self.shift = nn.Parameter(torch.randn(shape))

    def noise(self):
        return self.shape

    def loss(self, x, noise, label):
        z = (x - self.shift) * torch.exp(-self.scale)
        return (z.square() / 2).sum(1).mean() + self.scale.sum()

    def sample(self, noise, label=None):
        return torch.special.ndtri(noise.clamp(1e-6, 1 - 1e-6)) * self.scale.exp() + self.shift

    def measure(self, data, settings):
        return {"nll": float(self.loss(data.test, None, None))}


class NoSettings:
    pass


class Blobs:
    class Settings(BaseModel):
        count: int = 70

    data = "vectors"

    def __init__(self, settings):
        self.settings = settings

    def load(self):
        x = torch.randn((2 * self.settings.count, 3), generator=torch.Generator().manual_seed(0))
        return vectors("blobs", x[: self.settings.count], x[self.settings.count :])


class Plain(torch.optim.SGD):
    class Settings(BaseModel):
        lr: float = 1e-3


class Halving(BaseModel):
    after: int = 10

    def factor(self, step, steps):
        return 0.5 if step >= self.after else 1.0


class Spread:
    metric = Metric("spread", "maximize", unit="units of the vectors")

    def __call__(self, samples, real):
        return samples.std() / real.std()
"""
SWEEP = """
name: own
code: flow.py
data: {name: flow.Blobs, count: 61}
train: {steps: 6, batch_size: 7}
evaluate: {every: 3, samples: 11, also: [flow.Spread]}
search: {trials: 2, objective: spread}
arms:
  aiqn: {model: {name: aiqn, hidden: [7]}}
  flow:
    model: {name: flow.Shift, width: 5}
    space:
      model.width: [3, 4]
      optimizer.name: [adamw, flow.Plain]
      schedule: {flow.Halving: {schedule.after: [3, 5]}, cosine: {}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


def config(folder, **sections):
    code = load_code(folder / "flow.py")
    evaluate = {"every": 3, "samples": 11, "also": ["flow.Spread"]}
    base = {"code": code.recorded(), "model": "flow.Shift", "data": {"name": "flow.Blobs", "count": 61}}
    return TrainConfig.from_dict({**base, "train": {"steps": 6, "batch_size": 7}, "evaluate": evaluate, **sections})


def mistakes(folder, old, new):
    (folder / "s.yaml").write_text(SWEEP.replace(old, new))
    with pytest.raises(SweepError) as caught:
        load_sweep(folder / "s.yaml")
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_own_classes_are_arms_like_ours(folder):
    sweep = load_sweep(folder / "s.yaml")
    assert (sweep.search.objective.metric, sweep.search.objective.direction) == ("spread", "maximize")
    made = sweep.config("flow", {"model.width": 4, "schedule": "flow.Halving", "schedule.after": 5}, 0)
    assert made.model.settings.width == 4
    assert made.schedule.factor(4, 9) == 1.0
    assert made.schedule.follows_steps  # it does not say that it does not
    assert made.to_dict()["code"] == {"name": "flow", "hash": code_digest(folder / "flow.py")}
    assert TrainConfig.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert key_types(made.code)["model.tail"] is float


def test_the_loop_trains_them_and_continues_bit_for_bit(folder, tmp_path):
    *_, last = train(config(folder, optimizer={"name": "flow.Plain", "lr": 0.1}), tmp_path / "t")
    data = torch.randn((122, 3), generator=torch.Generator().manual_seed(0))
    assert last.metrics["spread"] == pytest.approx(float(last.samples.std() / data[61:].std()), rel=1e-6)
    assert {"nll", "energy_distance", "spread", "loss"} <= last.metrics.keys()
    assert method_problems(config(folder)) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "width: 5",
            "witdh: 5",
            "s.yaml:11: arms.flow.model.witdh: unknown key; did you mean 'width'? valid: name, width",
        ),
        ("count: 61", "count: many", "s.yaml:4: data.count: saw 'many', expected an integer"),
        ("model.width: [3, 4]", "model.widht: [3]", "s.yaml:13: arms.flow.space.model.widht: names no key of"),
        ("flow.Shift", "flow.Shifd", "s.yaml:11: arms.flow.model.name: saw 'flow.Shifd'; did you mean 'flow.Shift'?"),
        (
            "flow.Shift",
            "flow.NoSettings",
            "s.yaml:11: arms.flow.model.name: saw 'flow.NoSettings', a class without Set",
        ),
        ("flow.Shift", "flow.Path", "s.yaml:11: arms.flow.model.name: saw 'flow.Path'; did you mean"),
        ("flow.Shift", "os.path", "s.yaml:11: arms.flow.model.name: saw 'os.path'; valid: pixelcnn"),
        ("[flow.Spread]", "[flow.Blobs]", "s.yaml:6: evaluate.also[0]: saw 'flow.Blobs', a class without metric"),
        ("code: flow.py", "code: fow.py", "s.yaml:3: code: saw 'fow.py', no such file"),
        ("code: flow.py", "code: ../flow.py", "s.yaml:3: code: saw '../flow.py', expected a Python file or package"),
        (
            "code: flow.py",
            'code: "${HOME}/flow.py"',
            "s.yaml:3: code: saw '${HOME}/flow.py', which says what code is run",
        ),
        ("objective: spread", "objective: spraed", "s.yaml:7: search.objective: saw 'spraed'; did you mean 'spread'?"),
    ],
)
def test_a_mistake_is_told_with_its_line(folder, old, new, line):
    assert any(told.removeprefix(f"{folder}/").startswith(line) for told in mistakes(folder, old, new)), mistakes(
        folder, old, new
    )


def test_code_is_named_in_the_file_alone(folder):
    with pytest.raises(SweepError, match=r"--set code=other\.py: code says what code is run"):
        load_sweep(folder / "s.yaml", ["code=other.py"])


def test_code_that_cannot_be_imported_is_one_line(folder):
    (folder / "flow.py").write_text("x = 1\n\nraise RuntimeError('no such\\nthing')\n")
    with pytest.raises(ConfigError, match=r"which cannot be imported: line 3: RuntimeError: no such thing"):
        load_code(folder / "flow.py")


def test_only_an_arm_that_names_the_code_has_its_hash(folder):
    (folder / "s.yaml").write_text(
        SWEEP.replace("flow.Blobs, count: 61", "banana2d")
        .replace(", also: [flow.Spread]", "")
        .replace(", objective: spread", "")
    )
    arms = load_sweep(folder / "s.yaml").arms
    assert ("code" in arms["flow"].base, "code" in arms["aiqn"].base) == (True, False)


def test_an_edit_is_another_configuration_and_the_earlier_files_stay(folder, tmp_path):
    before = config(folder)
    kept = keep(before.code, tmp_path / "run")
    (folder / "flow.py").write_text(FLOW.replace("after: int = 10", "after: int = 11"))
    after = config(folder)
    assert settled(before.to_dict()) != settled(after.to_dict())
    keep(after.code, tmp_path / "run")
    assert kept.read_text() == FLOW
    kept.write_text(FLOW + "\n# edited\n")
    loaded(before.code.digest)
    import aiqn_core.code as codes

    codes._loaded.pop(before.code.digest)
    with pytest.raises(ConfigError, match="what lies there is not what ran before"):
        load_kept(tmp_path / "run", before.code.recorded())


def test_readers_never_import_it(folder, tmp_path):
    """A run folder whose code raises when it is imported is read by what only reads."""
    from run_folders import build_run_folder

    run = build_run_folder(tmp_path / "runs" / "small")
    path = run.path if hasattr(run, "path") else run
    content = json.loads((path / "sweep.json").read_text())
    arm = next(iter(content["sweep"]["arms"].values()))
    arm["model"] = {"name": "flow.Shift", "layers": [3, 4], "width": 5}
    arm["code"] = {"name": "flow", "hash": "0123456789ab"}
    (path / "sweep.json").write_text(json.dumps(content))
    (path / "code" / "0123456789ab").mkdir(parents=True)
    (path / "code" / "0123456789ab" / "flow.py").write_text("raise SystemExit('imported')")
    code = "import sys; from pathlib import Path; from orchestrator.status import status_lines; "
    code += f"print(status_lines(Path({str(path)!r}))); "
    code += f"from reports.results import read_results; read_results(Path({str(path)!r})); "
    code += "assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


BROKEN = {
    "        z = (x - self.shift) *": (
        "        x = x + torch.rand_like(x)\n        z = (x - self.shift) *",
        "flow.Shift: loss drew from the global generator of torch, so that it cannot be resumed; use its argument",
    ),
    "        return torch.special.ndtri(": (
        "        noise = torch.rand(noise.shape, generator=self.__dict__.setdefault('own', torch.Generator()))\n"
        "        return torch.special.ndtri(",
        "Shift.sample: gave other samples for the same noise, expected a function of the noise and nothing else; ",
    ),
    "(z.square() / 2).sum(1).mean() + self.scale.sum()": (
        "(z.square() / 2).sum(1).mean() * self.weight() + self.scale.sum()\n\n    calls = 0\n\n    def weight(self):\n"
        "        self.calls += 1\n        return 1 + self.calls // 3",
        "flow.Shift: a training that was cut off and continued ended with other weights",
    ),
    "+ self.scale.sum()": (
        "* self.weight() + self.scale.sum()\n\n    calls = 0\n\n    def weight(self):\n"
        "        self.calls += 1\n        return 1 + self.calls / 9",
        "Shift.loss: gave ",
    ),
    "torch.special.ndtri(noise.clamp(1e-6, 1 - 1e-6))": (
        "torch.randn(noise.shape)",
        "flow.Shift: sample drew from the global generator of torch, so that it cannot be reproduced",
    ),
    "return (z.square() / 2).sum(1).mean()": (
        "return (z.square() / 2).sum(1)",
        "Shift.loss: gave shape (5,), expected a scalar tensor, the mean over the batch",
    ),
    "* self.scale.exp() + self.shift": (
        "[:, :2]",
        "Shift.sample: gave shape (12, 2) of torch.float32, expected (12, 3) of torch.float32",
    ),
    'return {"nll":': ('return {"other":', "flow.Shift: declares the metric nll but measure() does not give it"),
    "        z = (x - self.shift)": (
        "        self.calls = getattr(self, 'calls', 0) + 1\n        z = (x - self.shift) * (1 + self.calls / 9)",
        "Shift.loss: gave ",
    ),
    "super().__init__()": (
        "super().__init__()\n        raise KeyError('x')",
        "flow.Shift: __init__ raised KeyError: 'x'",
    ),
}


@pytest.mark.parametrize("old", BROKEN)
def test_check_names_what_is_broken_in_one_sentence(folder, old):
    new, sentence = BROKEN[old]
    (folder / "flow.py").write_text(FLOW.replace(old, new, 1))
    (problem, *_) = method_problems(config(folder))
    assert problem.startswith(sentence), problem
    assert "\n" not in problem


def test_check_says_which_attribute_no_checkpoint_holds(folder):
    old = "+ self.scale.sum()"
    (folder / "flow.py").write_text(FLOW.replace(old, BROKEN[old][0], 1))
    (problem, *_) = method_problems(config(folder))
    assert problem.endswith("; it changes calls, which no checkpoint holds: make it a buffer (register_buffer)")


def test_check_tries_each_choice_and_says_where_it_fails(folder):
    """Only one branch of the space is broken, and not the first."""
    (folder / "flow.py").write_text(
        FLOW.replace("return 0.5 if step >= self.after else 1.0", "raise ValueError('no such step')")
    )
    sweep = load_sweep(folder / "s.yaml")
    aiqn, flow = check_arms(sweep)
    assert aiqn.problems == []
    (problem,) = flow.problems
    assert "no such step (flow.py, line " in problem
    assert problem.endswith(")")
    assert "schedule: flow.Halving" in problem
    tried = configurations(sweep, sweep.arms["flow"])
    space = sweep.arms["flow"].space
    assert {params["schedule"] for params in tried} == {"flow.Halving", "cosine"}
    assert {params["optimizer.name"] for params in tried} == {"adamw", "flow.Plain"}
    assert {params.get("schedule.after") for params in tried} == {3, 5, None}
    assert all(space.active(params) for params in tried)


def test_a_random_rate_that_is_too_high_is_no_broken_promise(folder):
    wild = config(folder, optimizer={"name": "sgd", "lr": 1e30})
    assert any("within 4 steps" in told for told in method_problems(wild))
    assert method_problems(wild, may_diverge=True) == []


def test_a_covering_makes_every_choice_and_stays_inside_its_ranges():
    text = {
        "optimizer.name": {
            "adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
            "sgd": {"optimizer.lr": {"low": 0.1, "high": 0.5}, "optimizer.momentum": [0.0, 0.5, 0.9]},
        },
        "model.layers": {"low": 2, "high": 9},
        "schedule": ["constant", "cosine"],
    }
    space = Space.from_dict(text)
    found = covering(space, Random(5))
    assert len(found) == 1 + 3  # as many as the largest choice has, not their product
    assert {one.get("optimizer.momentum") for one in found} == {None, 0.0, 0.5, 0.9}
    for params in found:
        optuna_params(space, params)  # raises for what is missing, left over or outside
    assert len({params["model.layers"] for params in found}) > 1
