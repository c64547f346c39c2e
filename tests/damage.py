"""Run folders damaged in thousands of ways, and every command that reads one: what each does with what.

Structure-aware and seeded: a mutation changes one value, key or line of one file, or the file as a whole. The same
seed gives the same mutations, so a number is all that is needed to see a failure again.
"""

import copy
import json
import random
import shutil
import signal
import traceback
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import typer
from documents import at, places
from typer.testing import CliRunner

from aiqn_core.config import config_hash
from orchestrator.causes import End, State
from orchestrator.cli import app
from orchestrator.ledger import Ledger
from orchestrator.outcome import plain_errors
from orchestrator.plan import plan_at_start
from orchestrator.runs import FORMAT, RunFolder, write_json
from orchestrator.start import mark_finished, open_run
from orchestrator.sweep import load_sweep
from orchestrator.tracking import server
from orchestrator.trial import check_folder
from reports.results import read_results

TEXT = """\
# Which of two small models is closer to the digits?
name: study
train: {steps: 6, batch_size: 5}
evaluate: {every: 2, samples: 20, splits: 2, size: 64, reference: 50}
search: {trials: 3, sampler: {name: tpe, n_startup_trials: 2}, seed: 3}
arms:
  pixelcnn:
    model: {name: pixelcnn, layers: 2, planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
  pixeliqn:
    model: {name: pixeliqn, layers: 2, planes: 8}
    space:
      optimizer.name:
        adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
        sgd: {optimizer.lr: {low: 1.0e-2, high: 1.0, log: true}}
      loss.kappa: [0.0, 0.002]
final: {top: 1, seeds: [0, 7], steps: 8, evaluate: {every: 4}}
"""
SECONDS = 30  # of computing after which a reader counts as hanging; a busy machine makes it no slower in these
LONGEST = 20_000  # characters that a command may say about a folder
HOSTILE = [
    None, True, False, 0, 1, -1, 3, 2**63, -(10**400), 1.5, float("nan"), float("inf"), -float("inf"), 1e308, "", "x",
    "1", "\0", "\ud800", "../../etc", "x" * 5000, "pixelcnn", "completed", "search", [], {}, [[]], [None], {"": None},
    {"name": []}, [1, 2, 3], ["x"], {"a": {"b": {"c": []}}}, [{}],
]  # fmt: skip
PIECES = [
    b"",
    b"{",
    b"}",
    b"[",
    b'"',
    b",",
    b":",
    b"\0",
    b"\xff",
    b"\n",
    b"null",
    b"NaN",
    b"1e999",
    b"\xef\xbb\xbf",
    b"-",
]


# ---- a run folder with all its files --------------------------------------------------------------------------------


def record_study(folder):
    """`folder/study.yaml` and `folder/runs/study`: a finished sweep of ten trials, its journal and all notes beside it.

    One search trial of each arm did not complete. Everything is written by the real writers, but nothing was trained.
    """
    path = folder / "study.yaml"
    path.write_text(TEXT)
    sweep, run = load_sweep(path, environ={}), RunFolder(folder / "runs" / "study")
    run.path.mkdir(parents=True)
    open_run(run, sweep)
    plan_at_start(run, sweep)
    ledger = Ledger(run, sweep)
    while (assignment := ledger.next()) is not None:
        record_trial(ledger, assignment)
    mark_finished(run, True)
    write_json(
        run.mirror, {"uri": "sqlite:///x.db", "error": None, "records_behind": 3, "behind_since": 1.7e9, "runs": {}}
    )
    write_json(run.cluster, {"notes": ["node-b is not used: no space"]})
    write_json(run.spent, {"seconds": 50.0, "trial_seconds": 90.0})
    return sweep, run


def record_trial(ledger, assignment):
    """A trial as its process would leave it, told to the ledger; search trial 1 of each arm fails."""
    folder, steps = ledger.run.trial(assignment.id), assignment.config["train"]["steps"]
    folder.path.mkdir(parents=True)
    protocol = {"extractor": "lite0", "size": 64, "reference": 50, "samples": 20}
    provenance = {"config_hash": config_hash(assignment.config), "git": {"commit": "f00", "dirty": False}}
    provenance |= {"versions": {"torch": "2"}, "device": "CPU", "protocol": protocol}
    content = {"format": FORMAT, "config": assignment.config, "params": assignment.params, "seed": assignment.seed}
    write_json(folder.config, {**content, "source": assignment.source, "provenance": provenance})
    folder.log.write_text("started\nstep 2\n")
    fails = assignment.stage == "search" and assignment.number == 1
    for step in range(2, (2 if fails else steps) + 1, 2):
        value = 100 / step + assignment.number + assignment.seed % 7 / 100
        scores = {"fd_lite0": value, "is_lite0_mean": 1 + 9 / value, "kd_lite0": value / 1000, "coverage": 0.5}
        times = {"seconds": step / 10, "evaluate_seconds": step / 20}
        record = {"step": step, "time": 1.7e9 + step, "loss": 1 / step, "samples": 20, **scores, **times}
        folder.append_metrics([record])
        ledger.report(assignment.id, record)
    how = {"state": "failed", "cause": "ValueError", "message": "no"} if fails else {"state": "completed"}
    folder.update_status(
        **how, attempts=1, started=1.7e9, host="a", log=str(folder.log), steps=steps, step=steps, cpu_seconds=1.0
    )
    ledger.close(assignment.id)


# ---- mutations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """What one file holds instead: new bytes, None for no file, or "folder" for a folder in its place."""

    file: Path  # relative to the run folder
    content: bytes | str | None
    about: str


KINDS = ("config.json", "status.json", "metrics.jsonl", "sweep.json", "study.journal", "plan.json", "notes")


def mutation(run, seed):
    """The mutation of a run folder that belongs to a seed; the kinds of files take turns."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    trials = sorted(path.name for path in run.trials.iterdir())
    names = {"notes": chance.choice(["mirror.json", "cluster.json", "spent.json"])}
    place = Path("trials", chance.choice(trials), kind) if kind in KINDS[:3] else Path(names.get(kind, kind))
    content, about = damaged((run.path / place).read_bytes(), chance, lines=kind in ("metrics.jsonl", "study.journal"))
    return Mutation(place, content, f"seed {seed}, {place}: {about}")


def damaged(content, chance, *, lines=False):
    """A file's content with one thing wrong with it, and in words what; structured five times in six."""
    if chance.random() < 1 / 6:
        return _torn(content, chance)
    if not lines:
        value, about = changed(json.loads(content), chance)
        return json.dumps(value).encode(), about
    parts = content.splitlines(keepends=True)
    at = chance.randrange(len(parts))
    match chance.randrange(8):
        case 0:
            return b"".join(parts[:at] + parts[at + 1 :]), f"line {at} lost"
        case 1:
            return b"".join([*parts[:at], parts[at], *parts[at:]]), f"line {at} twice"
        case 2:
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
            return b"".join(parts), f"lines {at} and {other} exchanged"
        case _:
            value, about = changed(json.loads(parts[at]), chance)
            parts[at] = json.dumps(value).encode() + b"\n"
            return b"".join(parts), f"line {at}: {about}"


def _torn(content, chance):
    begin = chance.randrange(len(content) + 1)
    match chance.randrange(9):
        case 0:
            return None, "no such file"
        case 1:
            return "folder", "a folder in its place"
        case 2:
            return b"", "empty"
        case 3:
            return content[:begin], f"cut after {begin} bytes"
        case 4:
            return b"\0" * len(content), "zeros"
        case 5:
            return b"[" * 100_000, "nested 100,000 deep"
        case 6:
            return json.dumps(chance.choice(HOSTILE)).encode(), "another value altogether"
        case 7:
            return content.replace(b"1", b"1" * 5000, 1), "a number of 5,000 digits"
        case _:
            end, piece = begin + chance.randrange(9), chance.choice(PIECES)
            return content[:begin] + piece + content[end:], f"bytes {begin} to {end} are {piece!r}"


def changed(value, chance):
    """A JSON value with one of the values inside it replaced, removed, renamed, doubled or moved."""
    value = copy.deepcopy(value)
    found = [path for path in places(value) if path]
    if not found:
        return chance.choice(HOSTILE), "replaced"
    path = chance.choice(found)
    above, key, name = at(value, path[:-1]), path[-1], ".".join(map(str, path))
    match chance.randrange(7):
        case 0 | 1:
            del above[key]
            return value, f"{name} removed"
        case 2 if isinstance(above, dict):
            new = chance.choice(["", "x", str(key).upper(), "\0"])
            above[new] = above.pop(key)
            return value, f"{name} renamed {new!r}"
        case 3:
            other = chance.choice(list(places(value)))
            above[key] = copy.deepcopy(at(value, other))
            return value, f"{name} is what {'.'.join(map(str, other))} is"
        case 4:
            above[key] = chance.choice([[above[key]], {"x": above[key]}, str(above[key])])
            return value, f"{name} is {str(above[key])[:40]!r}"
        case _:
            above[key] = chance.choice(HOSTILE)
            return value, f"{name} is {str(above[key])[:40]!r}"


@contextmanager
def applied(run, change):
    """The run folder with a mutation, for the block."""
    path = run.path / change.file
    before = path.read_bytes()
    path.unlink()
    if change.content == "folder":
        path.mkdir()
    elif change.content is not None:
        path.write_bytes(change.content)
    try:
        yield
    finally:
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)


# ---- readers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """How a reader ended: its exit code and words, or the traceback of what it did not expect."""

    code: int
    text: str
    trace: str = ""

    @property
    def good(self):
        return not self.trace and self.code in (0, 2) and len(self.text) < LONGEST and "Traceback" not in self.text


class HangError(BaseException):
    """A reader that took too long; not an Exception, so that nobody takes it for bad input."""


def _alarm(number, frame):
    raise HangError(f"{signal.Signals(number).name}: not done in time")


@contextmanager
def in_time():
    kinds = {signal.SIGVTALRM: (signal.ITIMER_VIRTUAL, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, 20 * SECONDS)}
    before = {number: signal.signal(number, _alarm) for number in kinds}
    for timer, seconds in kinds.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in kinds.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def command(*words):
    """What a command of ours says and ends with."""
    try:
        with in_time():
            result = CliRunner().invoke(app, [str(word) for word in words])
    except HangError as error:
        return Answer(-1, "", str(error))
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    trace = "".join(traceback.format_exception(result.exception)) if unexpected else ""
    return Answer(result.exit_code, result.output, trace)


def started(run, sweep):
    """What a start does up to the first training, in a copy: open the folder, take up the journal, hand out trials."""
    with plain_errors():
        open_run(run, sweep)
        plan_at_start(run, sweep)
        ledger = Ledger(run, sweep)
        mark_finished(run, ledger.complete)
        for _ in range(30):
            if (assignment := ledger.next()) is None:
                break
            folder = run.trial(assignment.id)
            check_folder(folder, assignment)
            ledger.close(assignment.id, End(State.STOPPED))


def call(function, *arguments):
    """The same for a function of a command."""
    try:
        with in_time():
            function(*arguments)
    except typer.Exit as error:
        return Answer(error.exit_code, "")
    except (Exception, HangError):
        return Answer(1, "", traceback.format_exc())
    return Answer(0, "")


class Undrawn:
    """Stands for Altair: takes every call and operator, so that charts cost nothing but the tables behind them."""

    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **named):
        return self

    __add__ = __or__ = __and__ = __eq__ = __gt__ = __lt__ = __ge__ = __le__ = __call__
    __hash__ = object.__hash__


def without_charts(monkeypatch):
    """Let the report write its page, tables and pages of trials with empty drawings."""
    from reports import coordinates, curves, html, pareto, search_figures

    monkeypatch.setattr(html, "drawing_beside", nullcontext)  # a process for each page
    for module in (coordinates, curves, pareto, search_figures):
        for name in ("alt", "styled"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, Undrawn())
        monkeypatch.setattr(module, "write_chart", lambda chart, name, folder: "<svg/>", raising=False)


def without_server(monkeypatch):
    """Let `aiqn ui` do all but serve: read the folder, look into its store, and say the address."""
    listening = []

    @contextmanager
    def begun(command):
        listening.append(command)
        yield SimpleNamespace(poll=lambda: None, wait=lambda: 0)
        listening.clear()

    monkeypatch.setattr(server, "ending_with_us", begun)
    monkeypatch.setattr(server, "answers", lambda *_: bool(listening))


def read_as(run):
    """What the report reads of a folder, as text without the words of a damage: where it is the same, so is the page.

    None where it reads nothing.
    """
    try:
        results = read_results(run.path)
    except Exception:
        return None
    runs = [replace(one, damage=None, status={**one.status, "message": ""}) for one in results.runs]
    mirror = run.mirror.read_bytes() if run.mirror.is_file() else b""
    return repr(replace(results, runs=runs)) + repr(mirror)


class Readers:
    """Every command that reads a run folder, by name: `ask(name)` gives its answer."""

    def __init__(self, folder, sweep, run):
        self.folder, self.sweep, self.run = folder, sweep, run
        self.pages = {}  # what the report read -> how it ended
        file, runs, path = folder / "study.yaml", ("--runs", folder / "runs"), run.path
        (folder / "next.yaml").write_text(
            TEXT.replace("name: study", "name: next").replace("seed: 3", f"seed: 4, from: {path}")
        )
        self.commands = {
            "status": ("status", path),
            "stop": ("stop", path),
            "replay": ("replay", path, "--pruner", "asha"),
            "plan": ("plan", file, *runs),
            "plan --from": ("plan", folder / "next.yaml", "--from", path, "--runs", folder / "others"),
            "sweep --dry-run": ("sweep", file, "--dry-run", *runs),
            "search.from": ("sweep", folder / "next.yaml", "--dry-run", "--runs", folder / "others"),
            "report": ("report", path, "--to", folder / "report"),
            "ui": ("ui", path, "--port", "1"),
        }

    NAMES = (
        "status",
        "stop",
        "replay",
        "plan",
        "plan --from",
        "sweep --dry-run",
        "search.from",
        "report",
        "start",
        "ui",
    )

    def ask(self, name):
        if name == "report" and (read := read_as(self.run)) is not None:
            if read not in self.pages:
                self.pages[read] = command(*self.commands[name])
            return self.pages[read]
        if name != "start":
            return command(*self.commands[name])
        copied = RunFolder(self.folder / "copy" / "study")
        shutil.rmtree(copied.path.parent, ignore_errors=True)
        shutil.copytree(self.run.path, copied.path)
        return call(started, copied, self.sweep)
