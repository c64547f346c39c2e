"""Sweep files mutated in thousands of ways: each loads or is refused in plain lines; none reaches beyond its folder."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml
from documents import at, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_files import SMALL
from typer.testing import CliRunner

from orchestrator.causes import Cause, End, State
from orchestrator.cli import app
from orchestrator.document import SweepError
from orchestrator.ledger import Ledger
from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.sweep import load_sweep

FULL = """\
# Is everything there?
name: full
data: {name: digits}
train: {steps: 40, batch_size: 8, ema_decay: 0.9, log_every: 5}
evaluate: {every: 10, samples: 11, splits: 2, size: 64, reference: 50}
search:
  trials: 7
  sampler: {name: tpe, multivariate: true, group: true, n_startup_trials: 3}
  pruner: {name: patient, patience: 1, wrapped_pruner: {name: asha, min_resource: 5, reduction_factor: 3}}
  objective: {metric: fd_lite0, direction: minimize}
  min_arrivals: 3
  seed: 11
  enqueue: {cnn: [{optimizer.lr: 0.001}]}
arms:
  cnn:
    model: {name: pixelcnn, layers: 2, planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
      schedule: [constant, decay]
      model.layers: {low: 1, high: 5, step: 2}
  iqn:
    model: {name: pixeliqn, layers: 2, planes: 8}
    space:
      optimizer.name:
        adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
        sgd: {optimizer.momentum: [0.0, 0.9]}
      loss.kappa: [0.0, 0.002]
final: {top: 2, seeds: [0, 5], steps: 50, evaluate: {every: 25}}
resources: {cpu: 1, gpu: 0, retries: 3, silent_minutes: 7}
budget: {hours: 3}
tracking: {uri: null}
"""
CANARY = Path("/tmp/aiqn-canary")
HOSTILE = [
    "../../escape", "/etc/passwd", "a/b", "..", ".", "~", "", " ", "-", "x" * 300, "a\0b", "a\nb", "\u202e", "ключ",
    "${HOME}", "${NOPE}", "$$", f"!!python/object/apply:os.system ['touch {CANARY}']", "__import__('os')", "none",
]  # fmt: skip
TEXTS = [
    f"!!python/object/apply:os.system ['touch {CANARY}']", "!!python/name:os.system", "&a [*a]", "*undefined", "{", "]",
    "? ", "- ", "---\n", "\t", "\x07", "!!binary aGk=", "<<: {a: 1}", "1e999", "0x", ": ", "#", "\ufeff", "null", "''",
]  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, 1, 2, -1, 10**6]),
    st.floats(),
    st.sampled_from(HOSTILE),
    st.text(max_size=9),
    st.dates(),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(HOSTILE) | st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def documents(draw):
    """A good file with one to three of its values replaced, removed, moved or renamed."""
    document = yaml.safe_load(draw(st.sampled_from([SMALL, FULL])))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(document) if path]))
        parent, key = at(document, path[:-1]), path[-1]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "copy"])):
            case "replace":
                parent[key] = draw(values)
            case "remove":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(HOSTILE) | st.integers() | st.none())] = parent.pop(key)
            case _:
                parent[key] = copy.deepcopy(at(document, draw(st.sampled_from(list(places(document))))))
        if not any(True for _ in places(document)) or not isinstance(document, dict) or not document:
            break
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@st.composite
def texts(draw):
    """A good file with pieces of its text cut out, doubled, or written over."""
    text = draw(st.sampled_from([SMALL, FULL]))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12)))
        text = (
            text[:begin] + draw(st.sampled_from(["", text[begin:end] * 2, *TEXTS]) | st.text(max_size=3)) + text[end:]
        )
    return text


def check(folder, text):
    """What `aiqn sweep` does with a file, up to the first trials: no exception but the two that have a message."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "s.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        sweep = load_sweep(path, environ={"HOME": "/root"}, check_data=False)
    except SweepError as error:
        assert all(line.startswith(f"{path}:") for line in str(error).splitlines())  # noqa: PT017 (either may come)
        result = CliRunner().invoke(app, ["sweep", str(path), "--dry-run"])
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit), result.exception
    else:
        run = RunFolder(folder / "runs" / sweep.name)
        assert run.path.resolve().parent == (folder / "runs").resolve()
        run.path.mkdir(parents=True)
        try:
            ledger = Ledger(run, sweep)
        except RunFolderError:  # search.from names a run that is not there
            assert sweep.search.earlier is not None
        else:
            for _ in sweep.arms:
                assignment = ledger.next()
                assert run.trial(assignment.id).path.resolve().parent == run.trials.resolve()
                ledger.close(assignment.id, End(State.STOPPED, Cause.ASKED))
    assert {item.name for item in folder.iterdir()} <= {"s.yaml", "runs"}
    assert not CANARY.exists()


relaxed = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@settings(relaxed, max_examples=40)
@given(text=documents() | texts())
def test_a_mutated_file_is_loaded_or_refused(tmp_path_factory, text):
    check(tmp_path_factory.getbasetemp() / "mutated", text)


@pytest.mark.chaos
@settings(relaxed, max_examples=1500)
@given(text=documents())
def test_a_thousand_mutated_documents(tmp_path_factory, text):
    check(tmp_path_factory.getbasetemp() / "mutated", text)


@pytest.mark.chaos
@settings(relaxed, max_examples=1500)
@given(text=texts())
def test_a_thousand_mutated_texts(tmp_path_factory, text):
    check(tmp_path_factory.getbasetemp() / "mutated", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_sweeps_and_arms(tmp_path, name):
    for key in ("name", "arm"):
        document = yaml.safe_load(SMALL)
        if key == "name":
            document["name"] = name
        else:
            document["arms"][name] = document["arms"].pop("one")
        check(tmp_path / "mutated", yaml.safe_dump(document, sort_keys=False))


@pytest.mark.parametrize("command", ["report", "status", "stop", "replay"])
@pytest.mark.parametrize("name", ["../../etc", "/etc", "nowhere", "a\0b", ""])
def test_hostile_run_folders_on_the_command_line(tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [command, name])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert not list(tmp_path.iterdir())
