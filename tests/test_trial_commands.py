"""`aiqn train`, `sample` and `inpaint` on a small trained model; what they say where something is wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import aiqn_core
from aiqn_core.data import load_data
from aiqn_core.sampling import sample
from aiqn_core.trained import load_trained
from aiqn_core.training import evaluation_draws, images_by_class, proportional_labels, read_checkpoint
from orchestrator import look
from orchestrator.cli import app
from orchestrator.runs import RunFolder
from orchestrator.single import start_of
from orchestrator.status import status_lines
from reports.html import write_report

CONFIG = """
data: {name: digits}
model: {name: pixeliqn, layers: 2, planes: 8, kernel: 3, skip_planes: 16, conditional: true}
optimizer: {name: adam, lr: 0.01}
train: {steps: 7, batch_size: 5, log_every: 2}
evaluate: {every: 3, samples: 14, splits: 2, size: 64, reference: 50, initial: true, keep_weights: true}
seed: 5
"""


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The trial's folder of `aiqn train`, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(CONFIG)
    result = run("train", folder / "tiny.yaml", "--runs", folder / "runs")
    assert result.exit_code == 0, result.output
    return folder / "runs" / "tiny" / "trials" / "pixeliqn-search-0", result.output


def test_train_leaves_a_run_folder_that_status_and_report_read(trained):
    folder, printed = trained
    assert "step 7: loss" in printed
    run_folder = folder.parent.parent
    assert status_lines(run_folder)[0] == "tiny: finished"
    assert "aiqn train" in (RunFolder(run_folder).read_sweep())["command"]
    page = write_report(run_folder)
    assert (page.parent / "trials" / "pixeliqn-search-0.html").exists()
    records = [record["step"] for record in RunFolder(run_folder).trial("pixeliqn-search-0").read_history()]
    assert records == [0, 2, 3, 4, 6, 7]


def test_train_again_trains_nothing(trained):
    folder, _ = trained
    before = (folder / "metrics.jsonl").read_bytes()
    root = folder.parent.parent.parent.parent
    assert run("train", root / "tiny.yaml", "--runs", root / "runs").exit_code == 0
    assert (folder / "metrics.jsonl").read_bytes() == before
    (root / "other").mkdir(exist_ok=True)
    for change, message in {
        ("seed: 5", "seed: 6"): "of another configuration",
        ("{name: pixeliqn", "{name: pixelcnn"): "holds the run of 'aiqn train",
    }.items():
        (root / "other" / "tiny.yaml").write_text(CONFIG.replace(*change))
        result = run("train", root / "other" / "tiny.yaml", "--runs", root / "runs")
        assert result.exit_code == 2
        assert message in result.stderr
    assert run("train", root / "tiny.yaml", "--runs", root / "runs").exit_code == 0


def test_a_trial_is_the_start_of_a_longer_training(trained, tmp_path):
    folder, _ = trained
    recorded = json.loads((folder / "config.json").read_text())["config"]
    for start in (folder, folder / "config.json"):
        config, _, name, _ = start_of(start, ["train.steps=11", "optimizer.lr=0.25"])
        assert name == "tiny-pixeliqn-search-0"
        again = config.to_dict()
        assert (again["train"].pop("steps"), again["optimizer"].pop("lr")) == (11, 0.25)
        for section, key in (("train", "steps"), ("optimizer", "lr")):
            again[section][key] = recorded[section][key]
        assert again == recorded
    result = run("train", folder, "--set", "train.steps=8", "--runs", tmp_path)
    assert result.exit_code == 0, result.output
    assert RunFolder(tmp_path / "tiny-pixeliqn-search-0").trial("pixeliqn-search-0").last_step() == 8
    wrong_key = run("train", folder, "--set", "train.stepps=8", "--name", "x", "--runs", tmp_path)
    assert (wrong_key.exit_code, len(wrong_key.stderr.splitlines())) == (2, 1)
    assert wrong_key.stderr.startswith("--set train.stepps=8: ")
    assert not (tmp_path / "x").exists()
    assert "no such file; expected a YAML file, or the folder of a trial" in run("train", tmp_path).stderr


def test_an_arm_of_a_sweep_is_a_start(tmp_path):
    sweep = tmp_path / "two.yaml"
    sweep.write_text(
        "name: two\ndata: banana2d\ntrain: {steps: 7}\nevaluate: {every: 5}\n"
        "arms:\n  a: {model: {name: aiqn, hidden: [5]}}\n  b: {model: {name: aiqn, hidden: [11]}}\n"
    )
    config, text, name, _ = start_of(sweep, ["train.steps=13"], "a")
    assert (config.model.hidden, config.train.steps, text, name) == ((5,), 13, sweep.read_text(), "two-a")
    assert run("train", sweep, "--arm", "c").stderr == f"--arm: saw 'c', expected an arm of {sweep}: a, b\n"


def test_a_trained_model_in_two_lines(trained):
    folder, _ = trained
    model = aiqn_core.load(folder)
    images = sample(model, 3, label=torch.tensor([0, 1, 2]))
    assert images.shape == (3, 1, 8, 8)
    assert not model.training
    content = read_checkpoint(folder / "checkpoint.pt")
    assert content is not None
    assert all(torch.equal(value, content["ema"][key]) for key, value in model.state_dict().items())
    assert load_trained(folder).step == 7


def test_the_weights_of_every_evaluation_are_kept_and_give_the_samples_shown_there(trained):
    folder, _ = trained
    assert sorted(int(path.stem) for path in (folder / "weights").glob("*.pt")) == [0, 3, 6, 7]
    first, last = load_trained(folder, 0), load_trained(folder, 7)
    assert (first.step, last.step) == (0, 7)
    newest = load_trained(folder)
    assert all(torch.equal(a, b) for a, b in zip(last.model.parameters(), newest.model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.model.parameters(), newest.model.parameters(), strict=True))
    data = load_data(newest.config.data)
    shown = images_by_class(newest.model, newest.config, data)
    with Image.open(folder / "samples" / "7.png") as picture:
        assert np.array_equal(np.asarray(picture), data.picture(shown)[:, :, 0])
    labels = evaluation_draws(newest.config, data, newest.model)[1]
    assert labels is not None  # scored with labels at random, whatever is shown
    assert len(labels.unique()) > 3


def test_sample_writes_a_picture_and_an_array(trained, tmp_path):
    folder, _ = trained
    to = tmp_path / "some.png"
    printed = run("sample", folder, "--count", 11, "--seed", 3, "--to", to)
    assert printed.output.split() == [str(to), str(tmp_path / "some.npy")]
    drawn = np.load(tmp_path / "some.npy", allow_pickle=False)
    assert (drawn.shape, drawn.dtype) == ((11, 1, 8, 8), np.uint8)
    run("sample", folder, "--count", 11, "--seed", 3, "--to", tmp_path / "again.png")
    assert to.read_bytes() == (tmp_path / "again.png").read_bytes()
    model, tau = aiqn_core.load(folder), torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    counts = torch.bincount(load_data(load_trained(folder).config.data).train_labels)
    label = proportional_labels(counts, 11, 3).sort().values
    assert np.array_equal(drawn, sample(model, 11, tau=tau, label=label).numpy())
    run("sample", folder, "--count", 11, "--seed", 3, "--class", 4, "--to", tmp_path / "four.png")
    fours = sample(model, 11, tau=tau, label=torch.full((11,), 4)).numpy()
    assert np.array_equal(np.load(tmp_path / "four.npy", allow_pickle=False), fours)


def test_samples_have_the_proportions_of_the_classes(trained):
    """Those of an older version, which did not record them, have as many of each."""
    trial = load_trained(trained[0])
    unequal = trial._replace(class_counts=(90, 0, 10, *[0] * 7))
    for counted, expected in ((unequal, [18, 0, 2]), (trial._replace(class_counts=(1,) * 10), [2] * 10)):
        asked = look._labels(counted, 20, None, 5)
        assert torch.bincount(asked)[: len(expected)].tolist() == expected
    assert trial.class_counts == tuple(torch.bincount(load_data(trial.config.data).train_labels).tolist())


def test_the_same_tau_at_every_kept_step(trained, tmp_path):
    folder, _ = trained
    printed = run("sample", folder, "--same-tau", "--class", 2, "--count", 5, "--to", tmp_path / "forming.png")
    assert "columns: step 0, 3, 6, 7" in printed.output
    drawn = np.load(tmp_path / "forming.npy", allow_pickle=False)
    assert drawn.shape == (5, 4, 1, 8, 8)
    run("sample", folder, "--class", 2, "--count", 5, "--to", tmp_path / "last.png")
    assert np.array_equal(drawn[:, -1], np.load(tmp_path / "last.npy", allow_pickle=False))


@pytest.mark.parametrize("mask", ["top", "right", "file"])
def test_inpaint_keeps_what_is_given_bit_for_bit(trained, tmp_path, mask):
    folder, _ = trained
    given = {"top": np.arange(8)[:, None] < 4, "right": np.arange(8)[None] >= 4}.get(mask)
    if mask == "file":
        given = np.random.RandomState(0).rand(8, 8) < 0.5
        mask = tmp_path / "mask.png"
        Image.fromarray(np.where(given, 0, 255).astype(np.uint8)).save(mask)
    given = np.broadcast_to(given, (8, 8))
    to = tmp_path / "filled.png"
    printed = run("inpaint", folder, "--mask", mask, "--images", 3, "--completions", 4, "--to", to)
    assert "diversity: two completions are" in printed.output
    assert "two originals are" in printed.output
    with Image.open(to) as picture:
        grid = np.asarray(picture)
    scale = (grid.shape[1] - 5) // (6 * 8)
    test = load_data(load_trained(folder).config.data).test.numpy()
    for row in range(3):
        for column in range(6):
            top, left = row * (8 * scale + 1), column * (8 * scale + 1)
            tile = grid[top : top + 8 * scale : scale, left : left + 8 * scale : scale]
            assert np.array_equal(tile[given], test[row, 0][given])
            if column == 0:
                assert (tile[~given] == 128).all()
            if column == 5:
                assert np.array_equal(tile, test[row, 0])


def wrong(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("command", ["sample", "inpaint"])
def test_a_missing_trial_and_a_damaged_checkpoint_are_one_clear_line(command, trained, tmp_path):
    folder, _ = trained
    assert wrong(command, tmp_path / "none") == (
        f"{tmp_path}/none: no such trial; expected a folder such as runs/quickstart/trials/pixeliqn-final-0"
    )
    (tmp_path / "empty").mkdir()
    assert "no checkpoint yet" in wrong(command, tmp_path / "empty")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:-999])
    assert wrong(command, damaged) == (
        f"{damaged}/checkpoint.pt: damaged; continue the training (the same command), which replaces it"
    )
    previous = damaged / "checkpoint.previous.pt"
    previous.write_bytes((folder / "checkpoint.pt").read_bytes())
    assert run(command, damaged, "--to", tmp_path / "x.png").exit_code == 0  # the one before is still there


def test_a_class_or_a_mask_that_does_not_exist(trained, tmp_path):
    folder, _ = trained
    assert wrong("sample", folder, "--class", 10) == "--class: saw 10; valid: 0 to 9"
    assert wrong("sample", folder, "--class", -1) == "--class: saw -1; valid: 0 to 9"
    mask = tmp_path / "mask.png"
    Image.new("L", (9, 8)).save(mask)
    assert wrong("inpaint", folder, "--mask", mask) == (
        f"--mask: {mask} has 9 x 8 pixels, expected 8 x 8, the size of the images"
    )
    Image.new("L", (8, 8)).save(mask)
    assert "no white pixel" in wrong("inpaint", folder, "--mask", mask)
    mask.write_bytes(b"no picture")
    assert "not a picture that can be read" in wrong("inpaint", folder, "--mask", mask)
    assert "no such file" in wrong("inpaint", folder, "--mask", "middle")
    assert "expected at most 297" in wrong("inpaint", folder, "--images", 298)


@pytest.mark.parametrize(
    ("model", "data", "command", "message"),
    [
        ("{name: vae, layers: 2, planes: 4, latent: 3}", "digits", ["inpaint"], "vae has no order of pixels"),
        ("{name: vae, layers: 2, planes: 4, latent: 3}", "digits", ["sample", "--class", 1], "not conditional"),
        ("{name: vae, layers: 2, planes: 4, latent: 3}", "digits", ["sample", "--same-tau"], "no weights are kept"),
        ("{name: aiqn, hidden: [8]}", "banana2d", ["inpaint"], "aiqn has no order of pixels"),
        ("{name: aiqn, hidden: [8]}", "banana2d", ["sample", "--same-tau"], "a model of vectors"),
    ],
)
def test_other_models_can_be_sampled_and_say_what_they_cannot(model, data, command, message, tmp_path):
    images = ", splits: 2, size: 64" if data == "digits" else ""
    (tmp_path / "other.yaml").write_text(
        f"data: {data}\nmodel: {model}\ntrain: {{steps: 2, batch_size: 5}}\n"
        f"evaluate: {{every: 2, samples: 14, reference: 50{images}}}\n"
    )
    assert run("train", tmp_path / "other.yaml", "--runs", tmp_path).exit_code == 0
    (folder,) = (tmp_path / "other" / "trials").iterdir()
    assert run("sample", folder, "--count", 5, "--to", tmp_path / "x.png").exit_code == 0
    assert len(np.load(tmp_path / "x.npy", allow_pickle=False)) == 5
    result = run(command[0], folder, *command[1:])
    assert result.exit_code == 2
    assert message in result.stderr


def test_mistakes_in_a_configuration_have_their_lines(tmp_path):
    (tmp_path / "bad.yaml").write_text("model: {name: pixeliqm}\ntrain:\n  stepps: 3\n")
    result = run("train", tmp_path / "bad.yaml", "--runs", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{tmp_path}/bad.yaml:1: model.name: saw 'pixeliqm'; did you mean 'pixeliqn'? valid: pixelcnn, pixeliqn, made,"
        " aiqn, vae, aiqn_vae",
        f"{tmp_path}/bad.yaml:3: train.stepps: unknown key; did you mean 'steps'? valid: steps, batch_size, ema_decay,"
        " ema_warmup, clip_norm, log_every",
    ]


def test_data_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path / "data"))
    (tmp_path / "mine.yaml").write_text("data: cifar10\ntrain: {steps: 3}\n")
    result = run("train", tmp_path / "mine.yaml", "--runs", tmp_path)
    assert result.exit_code == 2
    assert "aiqn data prepare cifar10" in result.stderr


def test_a_run_scored_at_a_size_that_is_refused_now_is_still_read(tmp_path):
    """As an earlier version left it: its weights are good, and its scores are shown with a warning."""
    (tmp_path / "old.yaml").write_text(CONFIG.replace("steps: 7", "steps: 3"))
    assert run("train", tmp_path / "old.yaml", "--runs", tmp_path).exit_code == 0
    (folder,) = (tmp_path / "old" / "trials").iterdir()
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    content["config"]["evaluate"]["size"] = 32
    torch.save(content, folder / "checkpoint.pt")
    for path in (folder / "config.json", tmp_path / "old" / "sweep.json"):
        path.write_text(path.read_text().replace('"size": 64', '"size": 32'))
    assert '"size": 32' in (folder / "config.json").read_text()
    assert run("status", tmp_path / "old").exit_code == 0
    assert "scored at 32 pixels a side" in (write_report(tmp_path / "old").parent / "index.html").read_text()
    assert run("sample", folder, "--count", 3, "--to", tmp_path / "x.png").exit_code == 0
    result = run("evaluate", folder)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "evaluate.size: saw 32, expected an integer >= 64" in result.stderr
    assert "size: 64" in run("evaluate", folder, "--size", 64).output


@pytest.mark.parametrize("command", ["train", "sample", "inpaint"])
def test_help_has_an_example(command):
    assert f"aiqn {command}" in " ".join(run(command, "--help").output.split())
