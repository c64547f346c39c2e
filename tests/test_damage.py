"""Damaged run folders, sweep files and arrays: one clear error or a damaged trial by name, never a traceback."""

import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from damage import KINDS, LONGEST, Readers, applied, mutation, record_study, without_charts, without_server
from sweep_files import SMALL
from test_mutations import FULL
from typer.testing import CliRunner

from aiqn_core.arrays import as_images
from aiqn_core.outside import SamplesError, read_images
from aiqn_core.pictures import PrepareError
from orchestrator import sweep as sweeps
from orchestrator.cli import app
from orchestrator.document import MOST_PROBLEMS, SweepError
from orchestrator.recovery import repair
from orchestrator.runs import DAMAGED, RunFolder, load_runs, write_json
from orchestrator.space import parse_space
from orchestrator.start import open_run
from orchestrator.sweep import load_sweep

pytestmark = pytest.mark.slow

FEW, MANY = {"report": 14, "ui": 14, "start": 35}, 2000  # mutations of each reader; 42 of the others


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    sweep, run = record_study(folder)
    return Readers(folder, sweep, run)


@pytest.fixture
def readers(study, monkeypatch):
    """The readers of one folder; a sweep file is read once, and charts are not drawn."""
    without_charts(monkeypatch)
    without_server(monkeypatch)
    loaded = {}

    def once(path, *arguments, **options):
        if path not in loaded:
            loaded[path] = load_sweep(path, *arguments, **options)
        return loaded[path]

    monkeypatch.setattr(sweeps, "load_sweep", once)
    return study


def failures(readers, name, seeds):
    """What a reader did with each mutation that it should not have done, in words."""
    found = []
    for seed in seeds:
        change = mutation(readers.run, seed)
        with applied(readers.run, change):
            answer = readers.ask(name)
        if not answer.good:
            found.append(f"{change.about}\n{answer.trace or f'code {answer.code}: {answer.text[:300]}'}")
    return found


@pytest.mark.parametrize("name", Readers.NAMES)
def test_a_reader_of_damaged_folders(readers, name):
    assert readers.ask(name).good  # the folder as it was
    found = failures(readers, name, range(FEW.get(name, 42)))
    assert not found, "\n".join(found)


@pytest.mark.chaos
@pytest.mark.parametrize("name", Readers.NAMES)
def test_two_thousand_damaged_folders(readers, name):
    found = failures(readers, name, range(1_000_000, 1_000_000 + MANY))
    assert not found, f"{len(found)} of {MANY}\n" + "\n".join(found[:9])


def test_the_same_seed_gives_the_same_mutation_and_all_kinds_come_up(study):
    changes = [mutation(study.run, seed) for seed in range(70)]
    assert changes == [mutation(study.run, seed) for seed in range(70)]
    assert {kind for kind in KINDS if any(change.file.name == kind for change in changes)} == set(KINDS) - {"notes"}
    assert len({change.about.partition(":")[2] for change in changes}) > 35


# ---- a damaged trial ----


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("config.json", lambda value: value.pop("source"), "source is missing"),
        ("config.json", lambda value: value.update(format=7), "saw format 7, this version reads 1"),
        ("config.json", lambda value: value["config"].update(train=5), "config.train: saw 5, expected a mapping"),
        ("config.json", lambda value: value.update(seed=True), "seed: saw True, expected an integer from 0"),
        ("status.json", lambda value: value.update(state="done"), "state: saw 'done', expected running or completed"),
        ("status.json", lambda value: value.update(updated=1e300), "updated: saw 1e+300, expected a number from 0"),
        ("status.json", lambda value: value.update(message="\ud800"), "message: saw characters that are no text"),
        ("metrics.jsonl", lambda value: value.update(fd_lite0="x"), "line 3: fd_lite0: saw 'x', expected a number"),
        ("metrics.jsonl", lambda value: value.update(step=-6), "line 3: step: saw -6, expected an integer from 0"),
    ],
)
def test_a_damaged_trial_is_named_with_its_file_and_the_others_are_as_before(readers, name, change, reason):
    run, trial = readers.run, "pixelcnn-search-0"
    path = run.trial(trial).path / name
    lines = path.read_text().splitlines() if name == "metrics.jsonl" else [path.read_text()]
    value = json.loads(lines[-1])
    change(value)
    before, text = {item.id: item for item in load_runs(run.path)}, path.read_text()
    path.write_text("\n".join([*lines[:-1], json.dumps(value)]) + "\n")
    try:
        after = {item.id: item for item in load_runs(run.path)}
        said = readers.ask("status").text
        page = readers.ask("report")
        incidents = (readers.folder / "report" / "incidents.csv").read_text()
    finally:
        path.write_text(text)
    assert after.keys() == before.keys()
    assert [key for key in after if after[key] != before[key]] == [trial]
    assert (after[trial].state, str(after[trial].damage).partition(",")[0]) == (
        DAMAGED,
        f"trials/{trial}/{name}: damaged",
    )
    assert f"  {trial} trials/{trial}/{name}: damaged, {reason}" in said
    assert "pixelcnn search: 2/3 done, 1 damaged, 1 failed" in said
    assert "pixeliqn search: 3/3 done, 1 failed" in said
    assert page.good
    assert f"trials/{trial}/{name}: damaged" in incidents
    assert "9 of 10 trials done; 1 trial failed" not in incidents


def test_a_completed_trial_whose_last_lines_are_lost_is_damaged_and_torn_lines_are_not(readers):
    folder = readers.run.trial("pixeliqn-search-2")
    text = folder.metrics.read_bytes()
    lines = text.splitlines(keepends=True)

    def state():
        (found,) = (item for item in load_runs(readers.run.path) if item.id == "pixeliqn-search-2")
        return found.state, str(found.damage)

    try:
        folder.metrics.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
        expected = "trials/pixeliqn-search-2/metrics.jsonl: damaged, it ends at step 4, but the trial at step 6"
        assert state() == (DAMAGED, expected)
        folder.metrics.write_bytes(lines[0][:30] + b"\n" + b"\xff\n" + text)  # torn by crashes, measured again
        assert state() == ("completed", "None")
    finally:
        folder.metrics.write_bytes(text)


def test_files_that_cannot_be_read_are_named(readers, monkeypatch):
    """The tests may run as root, whom no permission stops: opening the file fails as it does for everyone else."""
    run, denied = readers.run, []
    read_text, iterdir = Path.read_text, Path.iterdir

    def refuse(path, *arguments, **options):
        if path in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return (iterdir if path == run.trials else read_text)(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse)
    denied[:] = [run.trial("pixelcnn-search-0").config]
    said = readers.ask("status")
    assert "trials/pixelcnn-search-0/config.json: damaged, it cannot be read (Permission denied)" in said.text
    denied[:] = [run.sweep_json]
    for name in ("status", "replay", "report", "plan", "sweep --dry-run", "stop"):
        said = readers.ask(name)
        assert (said.code, said.trace) == (2, "")
        assert f"{run.sweep_json}: damaged, it cannot be read (Permission denied)" in said.text
    denied[:] = [run.trials]
    assert f"{run.trials}: cannot be read (Permission denied)" in readers.ask("status").text


@pytest.mark.parametrize("left", ["study.journal", "trials"])
def test_a_missing_sweep_json_beside_a_journal_or_trials_is_no_new_sweep(load, tmp_path, left):
    run, sweep = RunFolder(tmp_path / "runs" / "small"), load(SMALL)
    open_run(run, sweep)
    run.journal.touch() if left == "study.journal" else run.trials.mkdir()
    run.sweep_json.unlink()
    for command in (["sweep", tmp_path / "s.yaml", "--runs", tmp_path / "runs"], ["status", run.path]):
        result = CliRunner().invoke(app, [str(word) for word in [*command, *(["--dry-run"] * (command[0] == "sweep"))]])
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
        assert f"{run.sweep_json} is missing, but {left} of a sweep are here. Put back a copy" in result.output
    assert not run.sweep_json.exists()


def test_a_journal_is_used_up_to_its_first_entry_that_means_nothing(study, tmp_path):
    """As of a torn line, all from there on is kept beside it, and found again in the trials' folders."""
    lines = study.run.journal.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[20])
    for number, change in enumerate(({"op_code": 77}, {"op_code": "x"}, {"trial_id": [1]}, {"trial_id": None})):
        journal = tmp_path / f"{number}.journal"
        bad = json.dumps({**entry, "trial_id": 0, **change}).encode() + b"\n"
        journal.write_bytes(b"".join([*lines[:20], bad, *lines[20:]]))
        repair(journal)
        assert journal.read_bytes() == b"".join(lines[:20])
        assert journal.with_name(f"{journal.name}.torn").read_bytes() == b"".join([bad, *lines[20:]]) + b"\n"
    journal.write_bytes(b"".join(lines))
    repair(journal)
    assert journal.read_bytes() == b"".join(lines)


def test_configurations_that_no_trial_is_left_for_are_refused(load, tmp_path):
    run, wanted = (
        RunFolder(tmp_path / "runs" / "small"),
        "enqueue: {one: [{optimizer.lr: 0.001}, {optimizer.lr: 0.002}]}",
    )
    open_run(run, load(SMALL))
    for number in range(2):
        write_json(run.trial(f"one-search-{number}").status, {"state": "completed"})
    more = SMALL.replace("trials: 3", f"trials: 3, {wanted}")
    command = ["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs"), "--dry-run"]
    (tmp_path / "s.yaml").write_text(more)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
    assert "search.enqueue.one has 2 configurations to train, but 2 of 3 search trials" in result.output
    assert result.output.rstrip().endswith("raise search.trials to 4")
    (tmp_path / "s.yaml").write_text(more.replace("trials: 3", "trials: 4"))
    assert CliRunner().invoke(app, command).exit_code == 0


# ---- sweep files ----


def space_failures(folder, seeds):
    """Nested choices of every kind, drawn from the keys that there are: all that a load does with a space."""
    found = []
    for seed in seeds:
        chance = random.Random(seed)
        text = yaml.safe_load(FULL)
        text["arms"]["cnn"]["space"] = nested(chance)
        if chance.random() < 0.5:
            text["search"]["enqueue"]["cnn"] = [nested(chance)]
        found += refused_in_words(yaml.safe_dump(text, sort_keys=False), f"seed {seed}", folder)
    return found


WORDS = [None, True, False, 0, 1, 2, 1.0, 0.5, float("nan"), float("inf"), "adam", "sgd", "x", "", "1", "low", "a.b"]
PATHS = ["model", "optimizer", "optimizer.name", "optimizer.lr", "model.layers", "model.name", "loss.kappa", "schedule"]


def nested(chance, depth=0):
    """A mapping as of a space: known keys, each with a range, a list, or choices that have spaces of their own."""
    return {chance.choice(PATHS + WORDS[-3:]): inner(chance, depth) for _ in range(chance.randrange(1, 4))}


def inner(chance, depth):
    match chance.randrange(5):
        case 0:
            return chance.choice(WORDS)
        case 1:
            return [chance.choice([*WORDS, {"x": 1, 2: 3}]) for _ in range(chance.randrange(4))]
        case 2:
            return {word: chance.choice(WORDS) for word in ("low", "high", "step")[: chance.randrange(1, 4)]}
        case _:
            below = (lambda: nested(chance, depth + 1)) if depth < 3 else (lambda: None)
            return {chance.choice(WORDS): below() for _ in range(chance.randrange(1, 4))}


def refused_in_words(text, about, folder):
    """The failure where a sweep file is neither loaded nor refused in lines of its own, few and short enough."""
    path = folder / "s.yaml"
    path.write_text(text)
    try:
        load_sweep(path, environ={}, check_data=False)
    except SweepError as error:
        lines = str(error).splitlines()
        short = len(lines) <= MOST_PROBLEMS + 1 and len(str(error)) < 1.3 * LONGEST
        return [] if short and all(line.startswith(f"{path}:") for line in lines) else [f"{about}: {str(error)[:300]}"]
    except Exception as error:
        return [f"{about}: {error!r}\n{text}"]
    return []


def test_nested_choices_are_loaded_or_refused(tmp_path):
    found = space_failures(tmp_path, range(40))
    assert not found, "\n".join(found[:3])


@pytest.mark.chaos
def test_two_thousand_nested_choices(tmp_path):
    found = space_failures(tmp_path, range(1_000_000, 1_000_000 + MANY))
    assert not found, f"{len(found)}\n" + "\n".join(found[:3])


def test_of_two_dimensions_for_one_key_one_is_left():
    mapping = {"optimizer.name": {"adam": {"model": {"x": {"optimizer.name": ["sgd"]}}}, "sgd": {"model": [3]}}}
    space, problems = parse_space({**mapping, "model": [5]}, "space")
    where = [problem.path for problem in problems]
    assert where == ["space.optimizer.name.adam.model.x.optimizer.name", "space.model"]
    assert [dimension.path for dimension in space.dimensions] == ["optimizer.name"]
    params = {"optimizer.name": "adam", "model": "x"}
    assert [dimension.path for dimension in space.active(params)] == ["optimizer.name", "model"]


def test_a_file_of_mistakes_shows_the_first_and_their_number(load, tmp_path):
    wrong = "\n".join(f"  k{number}: {'y' * 5000}" for number in range(57))
    with pytest.raises(SweepError) as caught:
        load(f"{SMALL}resources:\n{wrong}\n")
    lines = str(caught.value).splitlines()
    assert len(caught.value.problems) == 57
    assert len(lines) == MOST_PROBLEMS + 1
    assert lines[-1] == f"{tmp_path}/s.yaml: and 37 more"
    with pytest.raises(SweepError) as caught:
        load(SMALL.replace("steps: 7", f"steps: {'y' * 90_000}"))
    assert len(str(caught.value)) < 1000


# ---- arrays ----


def written(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def array_failures(folder, seeds):
    """Arrays with damaged headers and of every shape and kind: those that are neither read nor refused in a line."""
    found = []
    for seed in seeds:
        chance = random.Random(seed)
        shape = tuple(chance.choice([0, 1, 3, 5, 8]) for _ in range(chance.randrange(6)))
        kind = chance.choice(["uint8", "uint8", "bool", "int64", "float16", "float64", "complex64", "U3", "O", "M8[s]"])
        content = written(np.zeros(shape).astype("int64" if kind == "M8[s]" else float).astype(kind))
        if chance.random() < 0.5:
            content = header(content, chance)
        path = folder / f"{seed % 7}.npy"
        path.write_bytes(content)
        try:
            images = read_images(path).images
            if images.dim() != 4 or 0 in images.shape:
                found.append(f"seed {seed}: {kind} {shape} became images of {tuple(images.shape)}")
        except SamplesError as error:
            if len(str(error)) > 1000 or str(path) not in str(error) or "\n" in str(error):
                found.append(f"seed {seed}: {kind} {shape}: {str(error)[:300]}")
        except Exception as error:
            found.append(f"seed {seed}: {kind} {shape}: {error!r}")
    return found


def header(content, chance):
    """The file with another word in its header, of the same length where that is possible, or with torn bytes."""
    words = [b"-1", b"1" * 20, b"1" * 30, b"1e9", b"None", b"'x'", b"[1]", b"(", b"\0", b"999999999999, 8, 8", b"True"]
    begin = content.find(b"'shape': (") + 10
    end = content.find(b")", begin)
    if chance.random() < 0.3:
        return content[: chance.randrange(len(content))]
    changed = content[:begin] + chance.choice(words) + content[end:]
    grown = len(changed) - len(content)
    return changed[:8] + (int.from_bytes(changed[8:10], "little") + grown).to_bytes(2, "little") + changed[10:]


def test_arrays_of_every_kind_are_read_or_refused(tmp_path):
    found = array_failures(tmp_path, range(300))
    assert not found, "\n".join(found[:5])


@pytest.mark.chaos
def test_four_thousand_arrays(tmp_path):
    found = array_failures(tmp_path, range(1_000_000, 1_004_000))
    assert not found, "\n".join(found[:5])


@pytest.mark.parametrize("shape", [(5, 8, 0, 3), (5, 3, 8, 0), (0, 7, 7, 3), (5, 0, 7, 1), (0, 7, 7)])
def test_images_without_pixels_are_refused(shape):
    with pytest.raises(PrepareError, match="saw the shape"):
        as_images("x", np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "given", [np.array([False, True]), np.array([0.0, 1.0]), np.array([-1.0, 1.0]), np.array([0.4, 255.3])]
)
def test_the_cure_that_is_named_gives_the_pixels_meant(given):
    """What the message says is carried out: the darkest pixel becomes 0, the lightest 255."""
    images = given.reshape(1, 1, 1, 2)
    with pytest.raises(PrepareError) as caught:
        as_images("x", images)
    cured = eval(str(caught.value).rpartition("save ")[2], {"np": np, "images": images})
    assert as_images("x", cured).reshape(-1).tolist() == [0, 255]


# ---- outputs ----


@pytest.mark.parametrize("command", ["sample", "inpaint"])
def test_a_picture_needs_the_name_of_a_file(tmp_path, monkeypatch, command):
    """Before anything is drawn: there is not even a trial."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for to, said in {
        ".": "saw '.', a folder",
        "": "saw '.', a folder",
        "/": "saw '/', a folder",
        str(tmp_path): "a folder; expected a file",
        "file/x.png": "file is a file; expected a folder",
        "/proc/nowhere/x.png": "/proc/nowhere",
    }.items():
        result = CliRunner().invoke(app, [command, "trial", "--to", to])
        (line,) = result.output.strip().splitlines()
        assert result.exit_code == 2
        assert said in line or (to.startswith("/proc") and os.access("/proc", os.W_OK) and "no such trial" in line)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_report_or_data_cannot_go_to_nothing_or_into_a_file(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    np.save(tmp_path / "x.npy", np.zeros((9, 7, 7), np.uint8))
    for words in (["report", str(study.run.path)], ["data", "prepare", "mine", "--from", "x.npy"]):
        for to, said in {"": "--to: saw nothing", "file": "file is a file", "file/deep": "file is a file"}.items():
            result = CliRunner().invoke(app, [*words, "--to", to])
            assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
            assert said in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.npy"]


def test_what_cannot_be_written_is_named(study, tmp_path, monkeypatch):
    """A folder that only the writing itself finds out about, as on a file system that is read-only."""

    def refuse(path, *arguments, **options):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = CliRunner().invoke(app, ["report", str(study.run.path), "--to", str(tmp_path / "out")])
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
    assert result.output.startswith(f"{tmp_path / 'out'}: Read-only file system")
