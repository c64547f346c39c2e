import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli import app

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


def test_a_dry_run_needs_no_data(call, tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path / "data"))
    (tmp_path / "tiny.yaml").write_text(SWEEP.replace("arms:", "data: cifar10\narms:"))
    assert call("sweep", "tiny.yaml", "--dry-run").exit_code == 0
    result = call("sweep", "tiny.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("tiny.yaml:3: data.name: saw 'cifar10', but no dataset.json in ")
    assert "run: aiqn data prepare cifar10 --from" in result.stderr
    assert not (tmp_path / "runs").exists()


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
