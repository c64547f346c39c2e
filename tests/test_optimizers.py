"""Every optimiser of torch by name against torch itself; schedules against torch's own and closed forms."""

import inspect
import io
import math

import pytest
import torch
from torch import nn

from aiqn_core.config import ConfigError, OptimizerConfig, ScheduleConfig, TrainConfig
from aiqn_core.optimizer_settings import OPTIMIZERS
from aiqn_core.optimizers import arguments, build_optimizer, settle
from aiqn_core.schedules import SCHEDULES
from aiqn_core.steps import learning_rate

# What says how a step is computed, or needs another loop, and is no setting; the last two are of a schedule of its own.
NOT_SETTINGS = {
    "params",
    "foreach",
    "maximize",
    "differentiable",
    "capturable",
    "fused",
    "ns_coefficients",
    "adjust_lr_fn",
}
ALSO_LEFT_OUT = {"Adam": {"decoupled_weight_decay"}, "Adafactor": {"eps"}, "Muon": {"eps"}}  # adamw; None as a default
OF_TORCH = [name for name in OPTIMIZERS if name != "rmsprop_tf"]


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_settings_are_the_arguments_of_torch_with_its_defaults(name):
    kind = getattr(torch.optim, OPTIMIZERS[name].torch_name)
    takes = {key: value.default for key, value in inspect.signature(kind).parameters.items()}
    given = arguments(OptimizerConfig(name))
    left_out = ALSO_LEFT_OUT.get(OPTIMIZERS[name].torch_name, set())
    assert given.keys() == takes.keys() - NOT_SETTINGS - left_out
    assert {key: value for key, value in given.items() if key != "lr"} == {
        key: takes[key] for key in given if key != "lr"
    }


def test_no_optimiser_of_torch_is_forgotten():
    there = {name for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and "Optimizer" not in name}
    assert {OPTIMIZERS[name].torch_name for name in OF_TORCH} == there - {"LBFGS", "SparseAdam"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def advance(model, optimizer, steps):
    for step in steps:
        x = torch.randn((11, 5), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_was_saved_and_loaded_goes_on_bit_for_bit(name):
    whole, cut, later = network(), network(), network()
    config = OptimizerConfig(name, lr=0.01)
    advance(whole, build_optimizer(config, list(whole.parameters())), range(6))
    first = build_optimizer(config, list(cut.parameters()))
    advance(cut, first, range(3))
    file = io.BytesIO()
    torch.save([cut.state_dict(), first.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    later.load_state_dict(weights)
    second = build_optimizer(config, list(later.parameters()))
    second.load_state_dict(state)
    settle(second)
    advance(later, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), later.parameters(), strict=True))
    assert not torch.equal(next(whole.parameters()), next(network().parameters()))


def test_muon_takes_the_matrices_and_adamw_the_rest():
    ours, torches = network(), network()
    advance(
        ours, build_optimizer(OptimizerConfig("muon", lr=0.02, weight_decay=0.3), list(ours.parameters())), range(4)
    )
    matrices = [p for p in torches.parameters() if p.ndim == 2]
    others = [p for p in torches.parameters() if p.ndim != 2]
    pair = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.3), torch.optim.AdamW(others, lr=0.02, weight_decay=0.3)
    for step in range(4):
        x = torch.randn((11, 5), generator=torch.Generator().manual_seed(step))
        torches.zero_grad()
        torches(x).square().mean().backward()
        for one in pair:
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), torches.parameters(), strict=True))
    with pytest.raises(ConfigError, match="no matrix among its parameters"):
        build_optimizer(OptimizerConfig("muon"), [nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("old", ["weight_decay", "beta1"])
def test_what_an_optimiser_does_not_have_is_refused(old):
    with pytest.raises(ConfigError, match=rf"optimizer.{old}: saw 0.1, but rmsprop_tf has no {old}; it has: lr,"):
        TrainConfig.from_dict({"optimizer": {"name": "rmsprop_tf", old: 0.1}})


def rates(schedule, steps):
    return [learning_rate(0.7, schedule, step, steps) for step in range(steps)]


def torch_rates(kind, steps, **settings):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler = kind(optimizer, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules_are_those_of_torch():
    of = torch.optim.lr_scheduler
    cosine = torch_rates(of.CosineAnnealingLR, 23, T_max=23, eta_min=0.07)
    assert rates(ScheduleConfig("cosine", final=0.1), 23) == pytest.approx(cosine, rel=1e-9)
    linear = torch_rates(of.LinearLR, 23, start_factor=1.0, end_factor=0.2, total_iters=23)
    assert rates(ScheduleConfig("linear", final=0.2), 23) == pytest.approx(linear, rel=1e-9)
    cycle = ScheduleConfig("one_cycle", rise=0.4, first=0.05, final=0.01)
    known = torch_rates(
        of.OneCycleLR,
        50,
        max_lr=0.7,
        total_steps=51,
        pct_start=0.42,
        div_factor=20,
        final_div_factor=5,
        cycle_momentum=False,
    )  # torch rises until step pct_start * total_steps - 1, here 20.42 of 50; ours until 0.4 * 50
    assert rates(cycle, 50) == pytest.approx(known, rel=0.08)
    assert max(rates(cycle, 50)) == pytest.approx(0.7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_rises_evenly_to_the_full_rate(name):
    found, without = (rates(ScheduleConfig(name, **given), 40) for given in ({"warmup": 7}, {}))
    assert found[0] < found[3] < found[6]
    if name in ("constant", "decay", "paper_decay"):
        assert found[:7] == pytest.approx([0.7 * (step + 1) / 8 for step in range(7)])
        assert found[7:] == without[7:]
    assert all(math.isfinite(rate) and 0 <= rate <= 0.7 for rate in found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_says_itself_whether_it_follows_the_number_of_steps(name):
    schedule = ScheduleConfig(name)
    shorter, longer = rates(schedule, 20), rates(schedule, 40)[:20]
    assert schedule.follows_steps == (shorter != longer)
