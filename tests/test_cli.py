import errno
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli import app, within_budget
from orchestrator.plan import Rates, make_plan, store_plan
from orchestrator.runs import RunFolder, write_json
from orchestrator.sweep import load_sweep

SWEEP = """# Which?
name: tiny
arms:
  pixelcnn: {model: pixelcnn, space: {optimizer.lr: [0.1, 0.2]}}
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", [command.callback.__name__ for command in app.registered_commands])
def test_the_help_of_every_command_has_an_example(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"Example: aiqn {command}" in result.output


def test_a_dry_run_says_what_would_be_run_and_leaves_nothing(call, tmp_path):
    result = call(
        "sweep",
        "tiny.yaml",
        "--dry-run",
        "--set",
        "search.trials=7",
        "--set",
        "train.steps=110",
        "--set",
        "evaluate.every=11",
    )
    assert result.exit_code == 0
    assert "pixelcnn  7 search trials of 110 steps\n" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "saw"),
    [
        (("sweep", "nowhere.yaml"), "nowhere.yaml"),
        (("sweep", "tiny.yaml", "--set", "search.trails=7"), "did you mean 'trials'?"),
        (("report", "nowhere"), "nowhere"),
        (("status", "nowhere"), "nowhere"),
        (("ui", "nowhere"), "nowhere"),
    ],
)
def test_wrong_input_is_a_plain_line_and_exit_code_2(call, arguments, saw):
    result = call(*arguments)
    assert result.exit_code == 2
    assert saw in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [("sweep",), ("sweep", "--dry-run"), ("plan",)], ids=" ".join)
def test_a_start_and_what_only_looks_need_the_data_and_the_weights(call, tmp_path, monkeypatch, command):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("AIQN_INCEPTION", raising=False)
    (tmp_path / "tiny.yaml").write_text(
        SWEEP.replace("arms:", "data: cifar10\nsearch: {objective: loss}\nfinal: {}\narms:")
    )
    name, *options = command
    result = call(name, "tiny.yaml", *options, "--set", "final.evaluate={features: inception}")
    assert result.exit_code == 2
    data, weights = result.stderr.splitlines()
    assert data.startswith("tiny.yaml:3: data.name: saw 'cifar10', but no dataset.json in ")
    assert "run: aiqn data prepare cifar10 --from" in data
    assert "final.evaluate.inception: saw none, and $AIQN_INCEPTION is not set" in weights
    assert not (tmp_path / "runs").exists()


def test_what_only_looks_refuses_prior_trials_that_are_not_there(call, tmp_path):
    for command in (["sweep", "tiny.yaml", "--dry-run"], ["plan", "tiny.yaml"]):
        result = call(*command, "--set", "search.from=nowhere")
        assert (result.exit_code, result.stderr) == (2, "nowhere: no such run folder\n")
    assert not (tmp_path / "runs").exists()


def test_what_an_extension_adds_is_said(call, tmp_path):
    before = ("search.trials=5", "final={top: 1, seeds: [0, 1], steps: 5000}")
    sweep = load_sweep(tmp_path / "tiny.yaml", before)
    run = RunFolder(tmp_path / "runs" / sweep.name)
    write_json(run.sweep_json, {"format": 1, "name": sweep.name, "finished": False, "sweep": sweep.to_dict()})
    now = ("search.trials=12", "final={top: 1, seeds: [0, 1, 2], steps: 8000}", "arms.iqn={model: pixeliqn}")
    settings = [word for setting in now for word in ("--set", setting)]
    commands = (["sweep", "tiny.yaml", "--dry-run", *settings], ["plan", "tiny.yaml", *settings])
    for command in commands:
        assert "is continued" not in call(*command).output  # no trial has started
    for number, state in enumerate(("completed", "failed", "running")):
        run.trial(f"pixelcnn-search-{number}").update_status(state=state)
    for command in commands:
        (line,) = (line for line in call(*command).output.splitlines() if "is continued" in line)
        assert line == (
            "runs/tiny is continued: 2 trials are done; this sweep adds 7 search trials, 1 final, 3,000 steps to each"
            " final of pixelcnn, arm iqn with 12 search trials and 3 finals, finals of the configurations that lead"
            " then, where they are others"
        )
    unchanged = [word for setting in before for word in ("--set", setting)]
    assert "runs/tiny is continued: 2 trials are done\n" in call("plan", "tiny.yaml", *unchanged).output


def test_preparing_data_says_what_is_there_and_where(call, tmp_path):
    for split in ("train", "test"):
        for index in range(3):
            folder = tmp_path / "photos" / split / "cats"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (7, 5), (index, 0, 0)).save(folder / f"{index}.png")
    result = call("data", "prepare", "photos", "--from", "photos", "--to", "out")
    assert result.exit_code == 0
    assert "photos: 3 training and 3 test images of 3 x 5 x 7\nin out, checksum" in result.output
    again = call("data", "prepare", "photos", "--from", "elsewhere", "--to", "out")
    assert again.exit_code == 0
    assert again.output == f"{result.output}It was prepared already, from photos; --force replaces it.\n"
    assert "Example: aiqn data prepare" in call("data", "prepare", "--help").output
    wrong = call("data", "prepare", "photos", "--from", "nowhere", "--to", "elsewhere")
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert "no such file or folder" in wrong.stderr


RATES = Rates(step=0.5, evaluation={"search": [(512, 53.2)]}, trial=3.0, disk=1e6)
SECONDS = 3 + 110 * 0.5 + 10 * 53.2  # of one trial


def test_a_plan_is_printed_and_kept_without_starting_anything(call, tmp_path):
    size = ("--set", "train.steps=110", "--set", "evaluate.every=11", "--set", "search.trials=7")
    result = call("plan", "tiny.yaml", *size)
    assert result.exit_code == 0
    row = next(line.split() for line in result.output.splitlines() if line.startswith("pixelcnn"))
    assert row == ["pixelcnn", "search", "7", "110", "10", "of", "512", "samples", "?", "?"]
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["plan.json"]


def test_a_sweep_above_its_budget_does_not_start_unasked(call, tmp_path):
    size = ("--set", "train.steps=110", "--set", "evaluate.every=11", "--set", "search.trials=7")
    budget = ("--set", "budget.hours=0.01")
    sweep = load_sweep(tmp_path / "tiny.yaml", [*size[1::2], budget[1]])
    run = RunFolder(tmp_path / "runs" / "tiny")
    store_plan(run, make_plan(sweep, {"pixelcnn": RATES}, "an earlier run"), {"pixelcnn": RATES})
    result = call("sweep", "tiny.yaml", *size, *budget)
    assert result.exit_code == 2
    assert "above budget.hours = 0.01" in result.stderr
    assert "Nothing was started" in result.stderr
    assert json.loads(run.plan.read_text())["lines"][0]["seconds"] == pytest.approx(SECONDS)
    assert not run.sweep_json.exists()


def test_a_sweep_with_a_budget_starts_where_nothing_can_be_calibrated(tmp_path, capsys):
    """A login node, or a head that trains nothing, has no GPU; the budget is enforced while the sweep runs."""
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    sweep = load_sweep(tmp_path / "tiny.yaml", ["resources.gpu=1", "budget.gpu_hours=5"])
    within_budget(sweep, tmp_path / "runs", yes=False)
    assert "this machine has no GPU to calibrate on" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_may_not_be_read_is_one_line(call, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "runs/theirs/plan.json")

    monkeypatch.setattr("orchestrator.status.status_lines", refuse)
    result = call("status", "runs/theirs")
    assert result.exit_code == 2
    assert result.stderr == "runs/theirs/plan.json: Permission denied; have it made accessible, or use another\n"


def test_what_only_looks_refuses_a_run_folder_of_another_question(call, tmp_path):
    sweep = load_sweep(tmp_path / "tiny.yaml")
    folder = RunFolder(tmp_path / "runs" / sweep.name)
    write_json(folder.sweep_json, {"format": 1, "name": sweep.name, "finished": False, "sweep": sweep.to_dict()})
    before = folder.sweep_json.read_bytes()
    for command in (["sweep", "tiny.yaml", "--dry-run"], ["plan", "tiny.yaml"]):
        assert call(*command).exit_code == 0
        refused = call(*command, "--set", "train.batch_size=7")
        assert refused.exit_code == 2
        assert "holds trials of a sweep that differs in: arms.pixelcnn.train.batch_size" in refused.output
    assert folder.sweep_json.read_bytes() == before
