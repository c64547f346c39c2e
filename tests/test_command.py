"""An arm that is a command: what its line may hold, what its reports become, how it ends with all it has started."""

import itertools
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from aiqn_core.checking import command_problems
from aiqn_core.command import keep_command
from aiqn_core.config import ConfigError, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.report import report
from aiqn_core.trained import load_trained
from aiqn_core.training import (
    CheckpointError,
    CommandError,
    DivergedError,
    Place,
    command,
    train_by_command,
    vector_scores,
)
from aiqn_core.training.reported import Reported
from orchestrator.causes import Again, Cause, Stage, ending
from orchestrator.document import SweepError
from orchestrator.runs import RunFolder, RunFolderError, load_runs
from orchestrator.single import train_one
from orchestrator.space import apply
from orchestrator.sweep import load_sweep
from orchestrator.trial import Assignment, check_folder, run_trial

ROOT = Path(__file__).parent.parent
SWEEP = """
name: both
data: gaussian2d
optimizer: {name: adam, lr: 0.002}
train: {steps: 6, batch_size: 7}
evaluate: {every: 3, samples: 11, reference: 13}
search: {trials: 2}
arms:
  aiqn: {model: {name: aiqn, hidden: [7]}}
  theirs:
    command: [python, theirs.py, "{scale}", "--{{x}}={width}", "{kind}"]
    values: {width: 4}
    space: {scale: {low: 1, high: 3}, kind: {good: {}, "two words; $HOME": {}}}
"""
# Each evaluation's samples are their step times the scale; what it was told is in the samples' folder.
THEIRS = """
import json, os, sys
import numpy
told = {key: value for key, value in os.environ.items() if key.startswith(("AIQN_", "OMP_"))}
json.dump({"words": sys.argv[1:], "cwd": os.getcwd(), "told": told}, open("told.json", "w"))
print("hello")
for step in map(int, told["AIQN_EVALUATE"].split(",")):
    numpy.save(f"{step}.npy", numpy.full((int(told["AIQN_SAMPLES"]), 2), float(step * int(sys.argv[1]))))
    with open(told["AIQN_REPORT"], "a") as file:
        file.write(json.dumps({"step": step, "samples": f"{step}.npy", "loss": step / 2, "depth": 7}) + "\\n")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(command, "TICK_SECONDS", 0.02)


def mistakes(folder, old, new):
    (folder / "s.yaml").write_text(SWEEP.replace(old, new))
    with pytest.raises(SweepError) as caught:
        load_sweep(folder / "s.yaml")
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def configured(*line, steps=6, **sections):
    evaluate = {"every": 3, "samples": 5, "reference": 13}
    base = {"data": "gaussian2d", "train": {"steps": steps}, "evaluate": evaluate}
    words = {"line": list(line), "values": {}, "files": [], "hash": ""}
    return TrainConfig.from_dict({**base, "command": words, **sections})


def python(text, **sections):
    return configured("python", "-c", text.replace("{", "{{").replace("}", "}}"), **sections)


def trained(config, tmp_path, history=()):
    return train_by_command(config, load_data(config.data), Place(tmp_path, tmp_path / "trial", 1), history)


def assigned(folder, **params):
    sweep = load_sweep(folder / "s.yaml")
    config = sweep.config("theirs", {"scale": 2, "kind": "good", **params}, 5).to_dict()
    keep_command(config["command"], folder, folder / "run")
    return Assignment("theirs", Stage.SEARCH, 0, config, params, 5), RunFolder(folder / "run")


# ---- the sweep file -----------------------------------------------------------------------------------------------


def test_an_arm_that_is_a_command_is_told_steps_and_values_alone(folder):
    sweep = load_sweep(folder / "s.yaml")
    base = sweep.arms["theirs"].base
    assert set(base) == {"data", "train", "evaluate", "command"}
    assert base["train"] == {"steps": 6}
    made = sweep.config("theirs", {"scale": 2, "kind": "two words; $HOME"}, 5)
    assert made.command.filled() == ["python", "theirs.py", "2", "--{x}=4", "two words; $HOME"]
    assert TrainConfig.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert sweep.arms["theirs"].space.dimensions[0].integer
    assert [metric.name for metric in made.metrics] == ["energy_distance", "wasserstein1_mean", "loss"]
    assert apply(base, {"scale": 3})["command"]["values"] == {"width": 4, "scale": 3}
    edited = (folder / "theirs.py").write_text(THEIRS + "\n")
    assert edited
    assert load_sweep(folder / "s.yaml").arms["theirs"].base["command"]["hash"] != base["command"]["hash"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            '"{scale}"',
            '"{scael}"',
            "s.yaml:11: arms.theirs.command[2]: saw {scael}, which is no key of space or values",
        ),
        (
            '"{scale}"',
            '"{scale"',
            "s.yaml:11: arms.theirs.command[2]: saw '{scale', expected {name}, or {{ for { itself",
        ),
        (
            "width: 4",
            "width: 4, heigth: 5",
            "s.yaml:12: arms.theirs.values.heigth: no word of the command has {heigth}",
        ),
        ("{scale: {low", "{n: [1, 2], scale: {low", "s.yaml:13: arms.theirs.space.n: no word of the command has {n}"),
        ("good: {}", "good: {m: [3]}", "s.yaml:13: arms.theirs.space.kind.good.m: no word of the command has {m}"),
        ("width: 4", "width: 4, kind: 5", "s.yaml:12: arms.theirs.values.kind: is also a key of the space"),
        ("theirs.py, ", "thiers.py, ", "s.yaml:11: arms.theirs.command[1]: saw 'thiers.py', which is no file beside"),
        ("python, theirs.py", "no-such-program", "saw the program 'no-such-program', which is not on this machine"),
        ("python, theirs.py", "./theirs.py", "theirs.py', a file that cannot be executed: chmod +x it"),
        ("python, theirs.py", '"{kind}"', "command[0]: saw '{kind}', expected the name of a program or file as it is"),
        ("theirs.py, ", '"{kind}", ', "command[1]: saw '{kind}', expected the name of a program or file as it is"),
        (
            "    values",
            "    model: pixelcnn\n    values",
            "12: arms.theirs.model: saw both model and command, expected one",
        ),
        (
            "    values",
            "    schedule: decay\n    values",
            "12: arms.theirs.schedule: saw 'decay', but a command has its own",
        ),
        (
            "    values",
            "    train: {ema_decay: 0.5}\n    values",
            "12: arms.theirs.train.ema_decay: saw 0.5, but of train",
        ),
        (
            "    values",
            "    files: [nets.py]\n    values",
            "12: arms.theirs.files[0]: saw 'nets.py', expected a file or",
        ),
        ("    values", "    files: [../..]\n    values", "12: arms.theirs.files[0]: saw '../..', expected a file or"),
        (
            "model: {name: aiqn, hidden: [7]}",
            "values: {n: 3}",
            "s.yaml:9: arms.aiqn.values: saw values without a command",
        ),
        (
            'command: [python, theirs.py, "{scale}"',
            "command: [python, theirs.py, 3",
            "expected a list of words such as",
        ),
        (
            "{scale: {low: 1, ",
            "{data: [1], scale: {low: 1, ",
            "theirs.space.data: all trials of a sweep share one data",
        ),
        (
            "search: {trials: 2}\narms:\n  aiqn: {model: {name: aiqn, hidden: [7]}}",
            "search: {trials: 2, objective: test_nll}\narms:\n  made: {model: made}",
            "11: arms.theirs.command: saw 'command', which reports no",
        ),
        (
            "evaluate:",
            "resources: {workers: 2}\nevaluate:",
            "arms.theirs.command: saw 'command' with resources.workers = 2",
        ),
    ],
)
def test_each_mistake_in_a_command_is_told_with_its_line(folder, old, new, told):
    assert any(told in line for line in mistakes(folder, old, new))


def test_the_nearest_name_is_told(folder):
    assert "did you mean 'scale'?" in "\n".join(mistakes(folder, '"{scale}"', '"{scael}"'))


def test_a_command_is_set_in_the_file_alone(folder):
    for override in ("arms.theirs.command=[rm]", "arms.theirs.command=null"):
        with pytest.raises(SweepError, match="says what code is run"):
            load_sweep(folder / "s.yaml", [override])
    assert "expected it without" in "\n".join(mistakes(folder, "theirs.py,", '"${HOME}",'))
    with pytest.raises(ConfigError, match="unknown key"):
        TrainConfig.from_dict({"model": {"name": "pixelcnn", "line": ["rm"]}})


# ---- a trial ------------------------------------------------------------------------------------------------------


def test_what_a_command_reports_is_recorded_and_scored_like_our_own(folder):
    task, run = assigned(folder)
    (folder / "theirs.py").write_text("raise SystemExit(3)")  # what runs is what the run folder keeps
    records = list(run_trial(task, run, threads=1, gpu=0))
    (found,) = load_runs(run.path)
    assert (found.state, found.cause, found.history) == ("completed", None, records)
    assert [(r["step"], r["loss"], r["depth"], r["samples"]) for r in records] == [(3, 1.5, 7.0, 11), (6, 3.0, 7.0, 11)]
    config = TrainConfig.from_dict(task.config)
    expected = vector_scores(torch.full((11, 2), 12.0), config, load_data(config.data))
    assert {name: records[1][name] for name in expected} == expected
    assert records[0]["seconds"] <= records[1]["seconds"]
    assert found.provenance["protocol"]["drawn_by"] == "its command"
    assert "cpu_seconds" not in found.status
    trial = run.trial(task.id)
    assert "\nhello\n" in trial.log.read_text()
    assert trial.samples(6).read_bytes().startswith(b"\x89PNG")
    told = json.loads((trial.path / "work" / "told.json").read_text())
    assert told["words"] == ["2", "--{x}=4", "good"]
    assert told["cwd"] == told["told"]["AIQN_FOLDER"] == str((trial.path / "work").absolute())
    names = ("SEED", "STEPS", "EVALUATE", "SAMPLES", "SHAPE", "THREADS", "GPU")
    assert [told["told"][f"AIQN_{name}"] for name in names] == ["5", "6", "3,6", "11", "2", "1", "0"]
    assert told["told"]["OMP_NUM_THREADS"] == "1"
    assert json.loads(told["told"]["AIQN_VALUES"]) == {"width": 4, "scale": 2, "kind": "good"}
    assert np.array_equal(np.load(told["told"]["AIQN_TRAIN"]), load_data(config.data).train.numpy())


def test_edited_files_of_a_run_are_not_run(folder):
    task, run = assigned(folder)
    (kept,) = (run.path / "code").glob("*/theirs.py")
    kept.write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match="they are not what ran before"):
        list(run_trial(task, run, threads=1))
    (found,) = load_runs(run.path)
    assert (found.state, found.cause) == ("failed", "configuration")


def test_a_copy_of_report_writes_what_we_read(tmp_path, monkeypatch, capsys):
    copy: dict = {}
    exec((ROOT / "aiqn_core" / "report.py").read_text(), copy)
    monkeypatch.chdir(tmp_path)
    copy["report"](4, loss=torch.tensor(2.5))
    assert json.loads(capsys.readouterr().out) == {"step": 4, "loss": 2.5}
    monkeypatch.setenv("AIQN_REPORT", str(tmp_path / "report.jsonl"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    report(3, samples=torch.full((5, 2), 1.25), depth=np.float32(7))
    copy["report"](6, samples="6.npy", loss=1)
    np.save("6.npy", np.zeros((5, 2)))
    lines = (tmp_path / "report.jsonl").read_text().splitlines()
    config = configured("true")
    reported = Reported(config, load_data(config.data), tmp_path / "work", ())
    found = [reported.take(i, line) for i, line in enumerate(lines, 1)]
    expected = vector_scores(torch.full((5, 2), 1.25), config, load_data(config.data))["energy_distance"]
    assert (found[0].metrics["depth"], found[0].metrics["energy_distance"]) == (7.0, expected)
    reported.tidy()
    assert [path.name for path in (tmp_path / "work").iterdir() if path.is_file()] == ["6.npy"]  # its own stays
    assert not list((tmp_path / "work" / "reported").iterdir())


DIGITS = {"data": "digits", "evaluate": {"every": 3, "samples": 12, "splits": 2, "reference": 13, "size": 64}}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{"], r"line 1: saw '{', expected a JSON object such as"),
        (["[3]"], r"saw \[3\], expected a JSON object|saw '\[3\]', expected a JSON object"),
        (['{"loss": 1}'], r"saw step None, expected an integer from 0 to 6 \(AIQN_STEPS\)"),
        (['{"step": -1}'], "saw step -1, expected an integer"),
        (['{"step": 1.5}'], "saw step 1.5, expected an integer"),
        (['{"step": true}'], "saw step True, expected an integer"),
        (['{"step": 7}'], "saw step 7, expected an integer from 0 to 6"),
        (['{"step": 2}', '{"step": 1}'], "line 2: saw step 1 after step 2, expected steps that rise"),
        (['{"step": 1}', '{"step": 1, "samples": "good.npy"}'], "saw step 1 again, with samples"),
        (['{"step": 1, "loss": "low"}'], "saw 'loss': 'low', expected a number"),
        (['{"step": 1, "my loss": 1}'], "saw 'my loss': 1, expected a number under a word"),
        (['{"step": 1, "fd_lite0": 1}'], "saw 'fd_lite0', which is measured here, expected another name"),
        (['{"step": 1, "seconds": 1}'], "saw 'seconds', which is measured here"),
        (['{"step": 1, "samples": 5}'], "saw samples 5, expected the path of a .npy file"),
        (['{"step": 3}'], "saw no samples of step 3, expected some at each step of AIQN_EVALUATE"),
        (['{"step": 1}', '{"step": 4}'], "line 2: saw no samples of step 3"),
        (['{"step": 1, "samples": "none.npy"}'], "none.npy' .*No such file.*, expected a .npy file"),
        (['{"step": 1, "samples": "text.npy"}'], "text.npy' .*, expected a .npy file that can be read"),
        (
            ['{"step": 1, "samples": "short.npy"}'],
            r"saw samples of shape \(11, 1, 8, 8\), expected uint8 of shape \(12, 1, 8",
        ),
        (['{"step": 1, "samples": "float.npy"}'], "saw samples of float64, expected uint8: levels from 0 to 255"),
        (['{"step": 1, "samples": "range.npy"}'], "saw samples from -1 to 256, expected levels from 0 to 255"),
        (['{"step": 1, "samples": "zip.npz"}'], "saw samples in an archive, expected uint8"),
        (
            ['{"step": 0, "samples": "good.npy"}', '{"step": 1, "samples": "good.npy"}'],
            "line 2: saw samples 'good.npy', which were those of step 0, expected a file for each step",
        ),
    ],
)
def test_each_wrong_report_is_one_sentence(tmp_path, lines, told, monkeypatch):
    monkeypatch.setattr("aiqn_core.training.reported.score", lambda samples, *_: {"samples": len(samples)})
    good = np.zeros((12, 1, 8, 8), np.int64)
    changed = {"good": good, "short": good[1:], "float": good.astype(float), "range": good.copy()}
    changed["range"].flat[:2] = (-1, 256)
    for name, array in changed.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "zip.npz", good)
    (tmp_path / "text.npy").write_text("1 2 3")
    config = configured("true", **DIGITS)
    reported = Reported(config, load_data(config.data), tmp_path, ())
    with pytest.raises(CommandError, match=told):
        list(itertools.starmap(reported.take, enumerate(lines, 1)))


def test_a_number_that_is_not_finite_is_a_divergence(tmp_path):
    config = configured("true")
    np.save(tmp_path / "inf.npy", np.full((5, 2), np.inf))
    for line in ('{"step": 2, "loss": NaN}', '{"step": 2, "samples": "inf.npy"}'):
        with pytest.raises(DivergedError, match=r"nan at step 2|values of the sampled vectors are not finite"):
            Reported(config, load_data(config.data), tmp_path, ()).take(1, line)


@pytest.mark.parametrize(
    ("line", "told", "cause"),
    [
        (
            ["true"],
            r"the command ended: saw no report at all, expected lines in AIQN_REPORT up to step 6",
            "CommandError",
        ),
        (
            ["sh", "-c", "echo a; echo 'no such data' >&2; exit 7"],
            "exit code 7, and its last line is: no such data",
            "CommandError",
        ),
        (
            ["sh", "-c", "echo '{{\"step\": 2}}' >> $AIQN_REPORT"],
            "saw a last report of step 2, expected step 6",
            "CommandError",
        ),
        (["sh", "-c", "echo 'CUDA out of memory'; exit 1"], "its last line is: CUDA out of memory", Cause.GPU_MEMORY),
        (
            ["sh", "-c", "printf '{{\"step\"' >> $AIQN_REPORT; kill -KILL $$"],
            "ended by SIGKILL, and it said nothing",
            Cause.KILLED,
        ),
        (["sh", "-c", "kill -SEGV $$"], "ended with SIGSEGV", "CommandError"),
    ],
)
def test_each_bad_end_is_one_sentence_and_a_cause(tmp_path, line, told, cause):
    with pytest.raises(Exception, match=told) as caught:
        list(trained(configured(*line), tmp_path))
    end = ending({}, caught.value)
    assert (end.recorded, "\n" in end.message) == (cause, False)
    assert (end.again == Again.COUNTED) == (cause == Cause.KILLED)


# ---- again --------------------------------------------------------------------------------------------------------


RESUMES = """
import json, os
import numpy
from pathlib import Path
kept = Path("step")
begin = int(kept.read_text()) if kept.exists() else 0
open("starts", "a").write(f"{begin}-{os.environ['AIQN_STEPS']} ")
for step in range(begin + 1, int(os.environ["AIQN_STEPS"]) + 1):
    line = {"step": step, "loss": step}
    if str(step) in os.environ["AIQN_EVALUATE"].split(","):
        numpy.save(f"{step}.npy", numpy.full((5, 2), step))
        line["samples"] = f"{step}.npy"
    open(os.environ["AIQN_REPORT"], "a").write(json.dumps(line) + "\\n")
    if step % 2 == 0:
        kept.write_text(str(step))
    if step == 5 and begin == 0:
        raise SystemExit("cut")
"""


def test_a_command_goes_on_in_its_folder_and_what_it_says_again_is_skipped(tmp_path):
    first = trained(python(RESUMES), tmp_path)
    past = list(itertools.islice(first, 5))
    with pytest.raises(CommandError, match="exit code 1, and its last line is: cut"):
        next(first)
    assert [progress.step for progress in past] == [1, 2, 3, 4, 5]
    found = list(trained(python(RESUMES), tmp_path, past))
    assert [progress.step for progress in found] == [1, 2, 3, 4, 5, 6]
    assert found[:5] == past
    assert found[4].metrics["seconds"] <= found[5].metrics["seconds"]
    longer = list(trained(python(RESUMES, steps=8), tmp_path, found))
    assert [progress.step for progress in longer] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (tmp_path / "trial" / "work" / "starts").read_text().split() == ["0-6", "4-6", "6-8"]


def test_what_was_reported_and_not_recorded_is_scored_by_the_next_start(tmp_path):
    first = trained(python(RESUMES), tmp_path)
    past = [next(first), next(first)]
    while (tmp_path / "trial" / "work" / "step").read_text() != "4":
        time.sleep(0.01)
    first.close()  # the trainer has heard of two steps, the command goes on from the fourth
    with (tmp_path / "trial" / "report.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # torn
    found = list(trained(python(RESUMES), tmp_path, past))
    assert [progress.step for progress in found] == [1, 2, 3, 4, 5, 6]
    expected = vector_scores(torch.full((5, 2), 3.0), python(RESUMES), load_data(python(RESUMES).data))
    assert found[2].metrics["energy_distance"] == expected["energy_distance"]


def test_more_steps_continue_a_command_and_another_value_does_not(folder):
    task, run = assigned(folder)
    list(run_trial(task, run, threads=1))
    trial = run.trial(task.id)
    task.config["train"]["steps"] = 9
    check_folder(trial, task)
    assert trial.last_step() == 6
    task.config["command"]["values"]["scale"] = 3
    with pytest.raises(RunFolderError, match="another configuration"):
        check_folder(trial, task)


# ---- the end of it ------------------------------------------------------------------------------------------------


STUBBORN = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: open("asked", "w").close())
stay = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
own = [subprocess.Popen([sys.executable, "-S", "-c", stay], start_new_session=apart) for apart in (False, True)]
open("pids", "w").write(" ".join(map(str, [os.getpid(), *(one.pid for one in own)])))
open(os.environ["AIQN_REPORT"], "a").write(json.dumps({"step": 1, "loss": 2}) + "\\n")
while True:
    time.sleep(1)
"""


def alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pids, seconds=20):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_a_command_that_is_left_is_ended_with_all_it_started(tmp_path):
    records = trained(python(STUBBORN), tmp_path)
    assert next(records).step == 1
    work = tmp_path / "trial" / "work"
    pids = [int(pid) for pid in (work / "pids").read_text().split()]
    assert all(map(alive, pids))
    records.close()
    assert (work / "asked").exists()  # SIGTERM came first
    assert not any(map(alive, pids))  # already: nothing is left when the trial is


def test_a_command_dies_with_a_trainer_that_was_killed(folder):
    (folder / "theirs.py").write_text(STUBBORN)
    task, run = assigned(folder)
    text = f"""
from pathlib import Path
from aiqn_core.training import command
from orchestrator.trial import *
command.GRACE_SECONDS = 0.3
for record in run_trial(Assignment.from_json({task.to_json()!r}), RunFolder(Path({str(run.path)!r})), 1):
    print(record["step"], flush=True)
"""
    trainer = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, cwd=ROOT)
    assert trainer.stdout.readline() == b"1\n"
    pids = [int(pid) for pid in (run.trial(task.id).path / "work" / "pids").read_text().split()]
    assert all(map(alive, pids))
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    assert gone(pids)


def test_a_command_that_leaves_others_behind_takes_them_along(tmp_path):
    leaves = "import os, subprocess, sys; p = subprocess.Popen(['sleep', '600']); open('pids', 'w').write(str(p.pid))"
    with pytest.raises(CommandError, match="no report at all"):
        list(trained(python(leaves), tmp_path))
    assert not alive(int((tmp_path / "trial" / "work" / "pids").read_text()))


# ---- aiqn check, aiqn train ---------------------------------------------------------------------------------------


def test_check_tries_a_command_and_says_what_is_wrong(folder):
    sweep = load_sweep(folder / "s.yaml")
    config = sweep.config("theirs", {"scale": 2, "kind": "good"}, 5)
    assert command_problems(config, folder) == []
    assert command_problems(python(RESUMES.replace("raise SystemExit", "exit")), folder)[0].startswith(
        "report.jsonl, line"
    )
    assert command_problems(configured("true"), folder) == [
        "the command ended: saw no report at all, expected lines in AIQN_REPORT up to step 4"
    ]
    (found,) = command_problems(configured("sleep", "600"), folder, seconds=0.3)
    assert found == "the command runs for more than 0.3 s, expected 4 steps in them"


def test_one_training_by_a_command(folder, capsys):
    (folder / "one.yaml").write_text(
        "data: gaussian2d\ntrain: {steps: 6}\nevaluate: {every: 3, samples: 11, reference: 13}\n"
        'command: [python, theirs.py, "{scale}"]\nvalues: {scale: 2}\n'
    )
    folder, config, records = train_one(folder / "one.yaml", folder / "runs")
    assert [record["step"] for record in records] == [3, 6]
    assert folder.path.name == "command-search-0"
    assert config.command.values == {"scale": 2}
    with pytest.raises(CheckpointError, match="was trained by a command"):
        load_trained(folder.path)
