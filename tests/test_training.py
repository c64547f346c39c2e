import copy
import dataclasses
import errno
import itertools

import pytest
import torch

from aiqn_core import training
from aiqn_core.config import ConfigError, LoopConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.models import PixelIQN
from aiqn_core.optimizers import build_optimizer
from aiqn_core.steps import draw_tau, ema_weight, learning_rate, step_seed, update_ema
from aiqn_core.training import (
    CheckpointError,
    DivergedError,
    new_state,
    previous_checkpoint,
    read_checkpoint,
    train,
    train_step,
)


@pytest.fixture(autouse=True)
def one_thread(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(name="pixeliqn", **changes):
    mapping = {
        "model": {"name": name, "layers": 2, "planes": 8, "skip_planes": 16, "kernel": 3},
        "optimizer": {"name": "adam", "lr": 0.01},
        "train": {"steps": 11, "batch_size": 5, "log_every": 3},
        "evaluate": {"every": 4, "samples": 14, "splits": 2, "size": 64, "reference": 50},
    }
    for key, value in changes.items():
        mapping[key] = {**mapping.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainConfig.from_dict(mapping)


def numbers(progress):
    """What must not depend on when and how often a training was interrupted."""
    timed = ("seconds", "evaluate_seconds")
    return progress.step, {key: value for key, value in progress.metrics.items() if key not in timed}


def weights(folder):
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in content[part].items()}


def test_steps_that_are_logged_and_evaluated():
    told = [numbers(progress) for progress in train(small(evaluate={"initial": True}))]
    assert [step for step, _ in told] == [0, 3, 4, 6, 8, 9, 11]
    assert [step for step, metrics in told if "fd_lite0" in metrics] == [0, 4, 8, 11]
    assert [step for step, metrics in told if "loss" in metrics] == [3, 4, 6, 8, 9, 11]
    evaluated = told[2][1]
    assert evaluated["samples"] == 14
    assert {"is_lite0_mean", "is_lite0_std"} <= evaluated.keys()


def test_each_model_has_its_own_score_on_held_out_images():
    for name in ("pixelcnn", "pixeliqn"):
        last = list(train(small(name, train={"steps": 3})))[-1]
        assert ("bits_per_dim" in last.metrics) == (name == "pixelcnn")
        assert ("calibration_error" in last.metrics) == (name == "pixeliqn")


@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "rmsprop_tf", "sgd"])
def test_an_interrupted_training_ends_bit_identical(tmp_path, name, optimizer):
    settings = {"name": optimizer, "lr": 0.01} | ({} if optimizer == "adam" else {"momentum": 0.5})
    config = small(name, optimizer=settings if optimizer != "adam" else {}, schedule="decay")
    if optimizer != "adam":
        config = dataclasses.replace(config, optimizer=OptimizerConfig(**settings))
    whole = list(train(config, tmp_path / "whole"))
    for cut in (2, 5):  # after a logged step, after an evaluation
        interrupted = train(config, tmp_path / "cut")
        for _ in itertools.islice(interrupted, cut):
            pass
        interrupted.close()
    resumed = list(train(config, tmp_path / "cut"))
    assert [numbers(progress) for progress in resumed] == [numbers(progress) for progress in whole]
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_what_was_measured_is_told_again_with_its_time(tmp_path):
    config = small()
    first = list(train(config, tmp_path))
    again = list(train(config, tmp_path))
    assert [progress.record() for progress in again] == [progress.record() for progress in first]
    assert torch.equal(again[-1].samples, first[-1].samples)


def test_a_longer_training_continues_a_shorter_one(tmp_path):
    list(train(small(train={"steps": 8}), tmp_path))
    longer = list(train(small(), tmp_path))
    assert [numbers(progress) for progress in longer] == [numbers(progress) for progress in train(small())]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    list(train(small(train={"steps": 3}), tmp_path))
    with pytest.raises(CheckpointError, match="another configuration"):
        list(train(small(train={"steps": 3}, seed=1), tmp_path))
    # a decay without boundaries follows the number of steps, so a longer training is another training
    relative = small(schedule="decay", train={"steps": 3})
    list(train(relative, tmp_path / "relative"))
    with pytest.raises(CheckpointError, match="another configuration"):
        list(train(small(schedule="decay", train={"steps": 7}), tmp_path / "relative"))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None])
def test_a_damaged_checkpoint_falls_back(tmp_path, damage):
    config = small()
    whole = list(train(config, tmp_path / "whole"))
    training_ = train(config, tmp_path / "cut")
    for progress in training_:
        if progress.step == 4:
            intact = (tmp_path / "cut" / "checkpoint.pt").read_bytes()
        if progress.step == 8:
            break
    training_.close()
    path = tmp_path / "cut" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: len(intact) // 2] if damage is None else damage)
    previous_checkpoint(path).write_bytes(intact)
    resumed = train(config, tmp_path / "cut")
    assert [progress.step for progress in itertools.islice(resumed, 2)] == [3, 4]
    assert numbers(list(resumed)[-1]) == numbers(whole[-1])


def test_a_storage_that_does_not_answer_is_no_missing_checkpoint(tmp_path, monkeypatch):
    """To start anew would overwrite what was trained."""
    list(train(small(train={"steps": 3}), tmp_path))
    path = tmp_path / "checkpoint.pt"

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match="Input/output"):
        list(train(small(train={"steps": 3}), tmp_path))
    assert read_checkpoint(tmp_path / "nothing.pt") is None


def test_the_one_before_is_gone_once_the_new_checkpoint_was_read_back(tmp_path):
    list(train(small(), tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]
    assert read_checkpoint(tmp_path / "checkpoint.pt")["step"] == 11


def test_evaluation_leaves_the_training_weights_alone():
    config = small()
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    training.evaluate(state.ema, config, data)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())
    assert state.model.training


def test_a_loss_that_is_not_finite_is_divergence():
    config = small("pixelcnn", optimizer={"lr": 1e30})
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) between steps"):
        list(train(config))


def test_both_models_learn_the_digits():
    for name in ("pixelcnn", "pixeliqn"):
        losses = [
            progress.metrics["loss"]
            for progress in train(small(name, train={"steps": 60, "log_every": 20}, evaluate={"every": 60}))
        ]
        assert losses[-1] < 0.8 * losses[0]


def test_learning_rates_of_the_papers_regime():
    paper = ScheduleConfig("decay", boundaries=(120_000, 180_000))
    relative = ScheduleConfig("decay")
    for step, expected in (
        (0, 1e-4),
        (119_999, 1e-4),
        (120_000, 3e-5),
        (179_999, 3e-5),
        (180_000, 1e-5),
        (299_999, 1e-5),
    ):
        assert learning_rate(1e-4, paper, step, 300_000) == pytest.approx(expected)
        assert learning_rate(1e-4, relative, step, 300_000) == pytest.approx(expected)
    assert learning_rate(0.3, ScheduleConfig(), 17, 18) == 0.3


def test_averaged_weights_against_a_slow_loop():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 5)
    ema = copy.deepcopy(model)
    slow = [parameter.detach().clone().double() for parameter in model.parameters()]
    config = LoopConfig(ema_decay=0.9)
    for step in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        weight = min(0.9, (1 + step) / (10 + step))
        assert ema_weight(config, step) == weight
        update_ema(ema, model, weight)
        slow = [weight * s + (1 - weight) * p.detach().double() for s, p in zip(slow, model.parameters(), strict=True)]
    for s, parameter in zip(slow, ema.parameters(), strict=True):
        torch.testing.assert_close(parameter.double(), s, rtol=1e-5, atol=1e-6)
    assert ema_weight(LoopConfig(ema_decay=0.9, ema_warmup=False), 0) == 0.9


def test_optimizers_carry_their_arguments():
    parameter = torch.nn.Parameter(torch.zeros(3))
    adam = build_optimizer(OptimizerConfig("adam", lr=0.5, beta1=0.7, eps=1e-3), [parameter])
    assert (adam.defaults["betas"], adam.defaults["eps"], adam.defaults["lr"]) == ((0.7, 0.999), 1e-3, 0.5)
    rmsprop = build_optimizer(OptimizerConfig("rmsprop", alpha=0.9, momentum=0.2), [parameter])
    assert (rmsprop.defaults["alpha"], rmsprop.defaults["momentum"]) == (0.9, 0.2)
    assert build_optimizer(OptimizerConfig("sgd", momentum=0.3), [parameter]).defaults["momentum"] == 0.3


def change_of_one_step(**settings):
    """By how much one step of plain gradient descent with lr 1 moves the weights: the norm of what is applied."""
    config = small("pixelcnn", **settings)
    config = dataclasses.replace(config, optimizer=OptimizerConfig("sgd", lr=1.0))
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    train_step(state, config, data.train, None, [])
    moved = [(new.detach() - old).square().sum() for new, old in zip(state.model.parameters(), before, strict=True)]
    return float(torch.stack(moved).sum().sqrt())


def test_clipping_bounds_the_norm_of_the_gradient():
    free = change_of_one_step()
    assert change_of_one_step(train={"clip_norm": free / 7}) == pytest.approx(free / 7, rel=1e-4)
    assert change_of_one_step(train={"clip_norm": 7 * free}) == pytest.approx(free, rel=1e-6)


@pytest.mark.parametrize("sampling", ["uniform", "stratified", "antithetic"])
def test_a_step_draws_tau_as_the_configuration_says(monkeypatch, sampling):
    config, drawn = small(loss={"tau_sampling": sampling}, train={"batch_size": 6}), []
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    loss = state.model.loss
    monkeypatch.setattr(state.model, "loss", lambda image, tau, *rest: drawn.append(tau) or loss(image, tau, *rest))
    for _ in range(2):
        train_step(state, config, data.train, None, [])
    tau = drawn[0]
    assert not torch.equal(tau, drawn[1])  # afresh at every step
    strata = (tau * 6).floor().sort(0).values
    assert torch.equal(strata, torch.arange(6.0)[:, None, None, None].expand_as(tau)) == (sampling == "stratified")
    assert torch.equal(tau[3:], 1 - tau[:3]) == (sampling == "antithetic")


def test_step_seeds_do_not_collide():
    seeds = {step_seed(seed, step) for seed in (0, 1, 2**31 - 1) for step in range(5000)}
    assert len(seeds) == 15000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stratified_levels_fall_once_into_each_interval():
    tau = draw_tau("stratified", torch.Size((11, 3, 5, 7)), torch.Generator().manual_seed(2))
    strata = (tau * 11).floor().sort(0).values
    assert torch.equal(strata, torch.arange(11.0)[:, None, None, None].expand(11, 3, 5, 7))
    first = (tau[0] * 11).floor()  # whichever image it is, all intervals are as likely
    assert len(first.unique()) == 11


def test_antithetic_levels_come_in_pairs_and_an_odd_one_is_free():
    tau = draw_tau("antithetic", torch.Size((7, 1, 5, 3)), torch.Generator().manual_seed(2))
    assert torch.equal(tau[3:6], 1 - tau[:3])
    assert float(tau[6].std()) > 0


@pytest.mark.parametrize("sampling", ["uniform", "stratified", "antithetic"])
def test_levels_are_uniform_however_they_are_drawn(sampling):
    """Kolmogorov's distance of the levels of one image: 1.63 / sqrt(n) is exceeded once in a hundred."""
    draws = [draw_tau(sampling, torch.Size((5, 3, 7, 2)), torch.Generator().manual_seed(s))[4] for s in range(60)]
    tau = torch.stack(draws).flatten().sort().values
    distance = (tau - (torch.arange(len(tau)) + 0.5) / len(tau)).abs().max()
    assert distance < 1.63 / len(tau) ** 0.5


def test_stratified_levels_make_the_gradient_less_noisy():
    deviation = {}
    for sampling in ("uniform", "stratified", "antithetic"):
        means = [
            draw_tau(sampling, torch.Size((16, 1, 1, 1)), torch.Generator().manual_seed(s)).mean() for s in range(99)
        ]
        deviation[sampling] = float(torch.stack(means).std())
    # of the mean of 16 levels: (1/12/16)^(1/2) = 0.072, (1/12/16^3)^(1/2) = 0.0045, and 0
    assert deviation["uniform"] == pytest.approx(0.0722, rel=0.2)
    assert deviation["stratified"] == pytest.approx(0.00451, rel=0.2)
    assert deviation["antithetic"] < 1e-6


def test_the_papers_regime_by_name():
    schedule = ScheduleConfig(name="paper_decay")
    rates = [learning_rate(1e-4, schedule, step, 100_000) for step in (0, 119_999, 120_000, 179_999, 180_000, 10**6)]
    assert rates == pytest.approx([1e-4, 1e-4, 3e-5, 3e-5, 1e-5, 1e-5], rel=1e-12)


def test_every_trial_of_a_sweep_is_scored_on_the_same_draws():
    """Rankings share their sampling noise: levels and labels follow evaluate.seed, whatever the trial's own seed is."""
    data = load_data(small().data)
    first, other = small(model={"conditional": True}), small("pixelcnn", model={"conditional": True}, seed=7)
    models = [new_state(config, data, torch.device("cpu")).ema for config in (first, other)]
    tau, label = training.evaluation_draws(first, data, models[0])
    again = training.evaluation_draws(other, data, models[1])
    assert torch.equal(tau, again[0])
    assert torch.equal(label, again[1])
    changed, _ = training.evaluation_draws(small(evaluate={"seed": 1}), data, models[0])
    assert not torch.equal(tau, changed)


def unequal(first=90, second=10):
    """Training images of two classes, zeros and ones, in unequal numbers."""
    digits = load_data(small().data)
    parts = [digits.train[digits.train_labels == label][:count] for label, count in enumerate((first, second))]
    labels = torch.arange(2).repeat_interleave(torch.tensor([first, second]))
    return dataclasses.replace(digits, train=torch.cat(parts), train_labels=labels, num_classes=2, checksum="none")


def test_a_perfect_conditional_model_of_unequal_classes_has_no_distance(monkeypatch):
    """It gives the training images of the class it is asked for, one after the other: the very set of real ones."""

    def perfect(model, noise, label):
        taken = [itertools.cycle(data.train[data.train_labels == number]) for number in range(2)]
        return torch.stack([next(taken[number]) for number in label.tolist()])

    data = unequal()
    settings = {"samples": 100, "reference": 100, "splits": 7}
    config = small(model={"conditional": True}, evaluate=settings)
    monkeypatch.setattr(PixelIQN, "sample", perfect)
    monkeypatch.setattr(PixelIQN, "measure", lambda *_: {})
    scores, _ = training.evaluate(new_state(config, data, torch.device("cpu")).ema, config, data)
    assert scores["fd_lite0"] < 1e-4
    uniform = lambda counts, samples, seed: torch.arange(samples) % 2  # noqa: E731
    monkeypatch.setattr("aiqn_core.training.evaluation.proportional_labels", uniform)
    scores, _ = training.evaluate(new_state(config, data, torch.device("cpu")).ema, config, data)
    assert scores["fd_lite0"] > 1
    assert training.protocol(config, data)["labels"] == "training proportions"
    assert "labels" not in training.protocol(small(evaluate=settings), data)


def test_labels_have_the_proportions_of_the_training_images():
    counts = torch.tensor([13, 1, 700, 0, 85, 201])
    for samples, seed in itertools.product((3, 7, 101, 1000), range(5)):
        label = training.proportional_labels(counts, samples, seed)
        drawn = torch.bincount(label, minlength=6)
        assert len(label) == samples
        assert ((drawn - samples * counts / counts.sum()).abs() < 1).all()
        assert torch.equal(label, training.proportional_labels(counts, samples, seed))
    assert torch.equal(drawn, counts)
    assert not torch.equal(label, label.sort().values)
    rare = [float((training.proportional_labels(counts, 11, seed) == 0).sum()) for seed in range(400)]
    assert sum(rare) / 400 == pytest.approx(11 * 13 / 1000, abs=0.05)  # less than one each time, yet not left out


def test_a_class_without_a_training_image_is_refused(monkeypatch):
    data = dataclasses.replace(unequal(), num_classes=3)
    monkeypatch.setattr("aiqn_core.training.loop.load_data", lambda _: data)
    with pytest.raises(ConfigError, match=r"model.conditional: saw true, but digits has no training image of class 2"):
        next(train(small(model={"conditional": True})))
    next(train(small()))
