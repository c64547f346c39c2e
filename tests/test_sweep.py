"""The sweep file as a whole: what it becomes, the files of the repository, and whatever may be in one."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from documents import places
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from sweep_files import SMALL

from aiqn_core.config import TrainConfig
from orchestrator.document import SweepError
from orchestrator.schema import json_schema
from orchestrator.sections import Sweep
from orchestrator.space import combinations, suggest
from orchestrator.sweep import load_sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


EXAMPLES = int(os.environ.get("AIQN_FUZZ_EXAMPLES", "150"))


def test_a_sweep_is_what_its_file_says(load):
    sweep = load(SMALL)
    assert (sweep.name, sweep.question, sweep.text) == ("small", "Is seven more than five?", SMALL)
    assert (sweep.search.trials, sweep.search.sampler, sweep.search.pruner) == (3, {"name": "tpe"}, {"name": "none"})
    assert (sweep.search.objective.metric, sweep.search.objective.direction) == ("fd_lite0", "minimize")
    assert (sweep.final.top, sweep.final.seeds, sweep.final.steps, sweep.final.evaluate) == (2, (5, 11), 13, {})
    assert (sweep.resources.cpu, sweep.resources.gpu, sweep.resources.retries) == (1, 0, 2)
    assert (sweep.budget.hours, sweep.tracking.uri) == (None, None)
    assert list(sweep.arms) == ["one", "two"]
    assert sweep.arms["two"].base["model"]["name"] == "pixeliqn"
    assert sweep.arms["two"].base["train"]["batch_size"] == TrainConfig().train.batch_size


def test_quickstart_is_the_experiment_of_the_readme():
    sweep = load_sweep(QUICKSTART)
    assert sweep.question.startswith("Does the quantile loss beat the likelihood")
    params = suggest(
        FixedTrial(
            {
                "optimizer.name": "sgd",
                "optimizer.lr | optimizer.name=sgd": 0.1,
                "schedule": "decay",
                "loss.kappa": 0.0,
            }
        ),
        sweep.arms["pixeliqn"].space,
    )
    config = sweep.final_config("pixeliqn", params, 1)
    assert (config.optimizer.name, config.optimizer.lr, config.schedule.name) == ("sgd", 0.1, "decay")
    assert (config.train.steps, config.evaluate.every, config.evaluate.samples) == (800, 200, 1000)
    assert (config.loss.kappa, config.evaluate.size) == (0.0, 64)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_of_the_repository(path):
    sweep = load_sweep(path, check_data=False)
    for arm in sweep.arms.values():
        for params in combinations(arm.space):
            config = sweep.config(arm.name, params, 0)
            assert TrainConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    assert sweep.question.endswith("?")
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


def test_optuna_is_not_imported_with_the_module():
    code = (
        "import sys, orchestrator.sweep; print([m for m in ('optuna', 'torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("opening", "question"),
    [
        ("# yaml-language-server: $schema=x.json\n# Is it\n# so?\n#  aiqn sweep\n", "Is it so?"),
        ("# Copyright.\n#\n# Is it?\n", "Is it?"),
        ("# A statement.\n", "small"),
        ("", "small"),
    ],
)
def test_the_question_is_the_comment_that_opens_the_file(load, opening, question):
    assert load(opening + SMALL.partition("\n")[2] + "# Too late?\n").question == question


FIVE = """\
# Five mistakes?
name: five
train: {steps: 100, bach_size: 8}
search:
  trials: six
  sampler: tpee
arms:
  one:
    model: pixelcnn
    space:
      optimizer.lr: {low: 1e-2, high: 1e-4}
  two:
    modle: pixeliqn
evaluate: {every: 50}
"""


SEEDS = [yaml.safe_load(SMALL.replace("1e-", "1.0e-")), yaml.safe_load(QUICKSTART.read_text())]


WORDS = [
    "name",
    "search",
    "arms",
    "space",
    "optimizer.lr",
    "low",
    "high",
    "adam",
    "pixelcnn",
    "<<",
    "${HOME}",
    "${",
    "!x",
]


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS), st.dates()
)


values = st.recursive(
    scalars, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(scalars, v, max_size=3)), max_leaves=6
)


@st.composite
def mutated_files(draw):
    document = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from([path for path in places(document) if path] or [("name",)]))
        holder = document
        for key in above:
            holder = holder[key]
        action = draw(st.sampled_from(["delete", "rename", "retype", "copy"]))
        if action == "retype" or (isinstance(holder, list) and action != "delete"):
            holder[last] = draw(values)
        elif action == "copy":
            holder[draw(st.sampled_from(WORDS))] = copy.deepcopy(holder.get(last))
        elif (isinstance(holder, dict) and last in holder) or isinstance(holder, list):
            moved = holder.pop(last)
            if action == "rename":
                holder[draw(scalars)] = moved
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=draw(st.booleans()))
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 5]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(mutated_files(), st.lists(st.text("search.trials=0[]{}:,'\"$&*!#\n x", max_size=16), max_size=2))
@example(b"name: x\narms: {a: {space: {model.layers: {low: 0, high: 9223372036854775807}}}}", [])
@example(b"name: x\narms: {a: {space: {train.steps: {low: 1, high: 9, step: 0}}}}", ["arms.a.space.train.steps.step=3"])
@example(b"? [a]\n: 1\n? {b: 1}\n: 2\n", [])
@example(b"<<: 1\nname: {<<: [1, {a: 2}]}\n", ["name.a=1"])
def test_whatever_is_in_the_file_it_is_a_sweep_or_an_error(tmp_path_factory, content, overrides):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    error = None
    try:
        sweep = load_sweep(path, overrides, {"HOME": "7"})
    except SweepError as caught:
        error = caught
        sweep = None
    if error is not None:
        lines = str(error).splitlines()
        assert len(lines) == len(error.problems) > 0
        assert all(line.startswith((f"{path}:", "--set ")) for line in lines)
        assert not any("pydantic" in line or "Traceback" in line for line in lines)
    else:
        assert isinstance(sweep, Sweep)
        assert json.loads(json.dumps(sweep.to_dict())) == sweep.to_dict()
        for arm in sweep.arms.values():
            sweep.config(arm.name, next(combinations(arm.space)), 0)


def test_toy2d_compares_four_models_of_vectors():
    sweep = load_sweep(ROOT / "sweeps" / "toy2d.yaml")
    configs = {arm: sweep.config(arm, {"optimizer.lr": 0.01, "schedule": "decay"}, 5) for arm in sweep.arms}
    assert list(configs) == ["made", "aiqn", "aiqn_independent", "aiqn_shared"]
    assert [config.to_dict()["model"].get("dependence") for config in configs.values()] == [
        None,
        "autoregressive",
        "independent",
        "shared",
    ]
    for config in configs.values():
        assert sweep.search.objective.metric in [metric.name for metric in config.metrics]


def test_the_objective_follows_from_the_features(load, mistakes, tmp_path, monkeypatch):
    monkeypatch.delenv("AIQN_INCEPTION", raising=False)

    def objective(text, *overrides):
        return load(text, overrides, check_data=False).search.objective

    images = "name: x\narms: {one: {model: pixelcnn}}\n"
    assert objective(images).metric == "fd_lite0"
    assert objective(images, "evaluate.features=inception").metric == "fid"
    assert objective(images, "search.trials=3", "arms.one.evaluate.features=inception").metric == "fid"
    assert objective("name: x\ndata: banana2d\narms: {one: {model: aiqn}}\n").metric == "energy_distance"
    assert objective(images, "search.objective.metric=is_lite0_mean").direction == "maximize"
    (mistake,) = mistakes(images, ["evaluate.features=inception"])
    assert "evaluate.inception: saw none, and $AIQN_INCEPTION is not set. FID, IS and KID need" in mistake
    (mistake,) = mistakes(images, ["evaluate.features=inception", f"evaluate.inception={tmp_path}/none.pth"])
    assert f"saw {tmp_path}/none.pth, which cannot be read (No such file or directory)" in mistake
    (mistake,) = mistakes(images, ["evaluate.features=inception", "evaluate.inception=here/none.pth"])
    assert "saw here/none.pth, expected a path from the root: trials run in other folders; /" in mistake
    (mistake,) = mistakes(images, ["search.objective.metric=fid"])
    assert "which reports no fid; expected another search.objective.metric" in mistake
