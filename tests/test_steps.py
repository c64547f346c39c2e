"""Recorded steps against plain ones: a tape of the operations stands in for a CUDA graph, and is as strict."""

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from aiqn_core import graphs
from aiqn_core.cached_sampler import CachedSampler
from aiqn_core.config import ModelConfig, TrainConfig
from aiqn_core.models import PixelIQN, build_model
from aiqn_core.optimizers import build_optimizer, settle
from aiqn_core.steps import WARM_UP, Steps
from aiqn_core.training import new_state

HOST_READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}


class Tape(TorchDispatchMode):
    """Records operations on the memory they name, undoes what they changed, and replays them without any Python.

    Like the recording of a CUDA graph: numbers of the host are frozen, and reading the device from the host fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.before: dict[int, Any] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.name in HOST_READS:
            raise RuntimeError(f"the host reads the device: {function}")
        if function._schema.is_mutable:
            for tensor in tree_flatten((args, kwargs))[0]:
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result

    def record(self, run):
        with self:
            run()
        for storage, content in self.before.values():
            storage.copy_(content)
        return torch.inference_mode(torch.is_inference_mode_enabled())(self.replay)

    @torch.no_grad()
    def replay(self) -> None:
        made: dict[int, Any] = {}

        def current(value):
            return made.get(id(value), value) if isinstance(value, Tensor) else value

        for function, args, kwargs, result in self.calls:
            again = function(*tree_map(current, args), **tree_map(current, kwargs))
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor):
                    made[id(old)] = new


def config_of(name: str, optimizer: dict[str, Any], **changes: Any) -> TrainConfig:
    model = {"name": name, "layers": 2, "planes": 8, "skip_planes": 16, "kernel": 3}
    train = {"steps": 9, "batch_size": 5, "ema_decay": 0.9, "clip_norm": 1.0}
    return TrainConfig.from_dict(
        {"model": model | changes, "optimizer": optimizer, "train": train, "schedule": {"name": "decay"}}
    )


OPTIMIZERS = [
    {"name": "adam", "lr": 0.01},
    {"name": "sgd", "lr": 0.3, "momentum": 0.5},
    {"name": "rmsprop_tf", "lr": 0.01, "momentum": 0.5},
]


def trained(config: TrainConfig, examples: Tensor, labels: Tensor | None, record: Any, fused: bool) -> Any:
    """Losses and weights after some steps."""
    torch.manual_seed(0)
    model = build_model(config.model, examples.shape[1:], 7)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = build_optimizer(config.optimizer, list(model.parameters()), fused)
    steps = Steps(model, ema, optimizer, config, examples, labels, record=record)
    losses = [float(steps(step)) for step in range(config.train.steps)]
    return losses, [*model.state_dict().values(), *ema.state_dict().values()]


@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_recorded_steps_are_the_plain_steps(name, optimizer):
    """Learning rates decay, averages warm up and batches change under the tape, which has seen none of it."""
    config = config_of(name, optimizer, conditional=True)
    examples, labels = torch.randint(256, (11, 1, 4, 6), dtype=torch.uint8), torch.randint(7, (11,))
    recorded = trained(config, examples, labels, Tape().record, fused=True)
    plain = trained(config, examples, labels, None, fused=False)
    torch.testing.assert_close(recorded[0], plain[0], rtol=1e-4, atol=1e-6)
    for fast, slow in zip(recorded[1], plain[1], strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-5)


def test_steps_of_an_optimizer_that_reads_on_the_host_are_not_recorded():
    """A tape, like the recording of a CUDA graph, would fail there after Adafactor has counted the step on the host."""
    config = config_of("pixeliqn", {"name": "adafactor", "lr": 0.01})
    examples = torch.randint(256, (11, 1, 4, 6), dtype=torch.uint8)
    given = trained(config, examples, None, Tape().record, fused=True)
    plain = trained(config, examples, None, None, fused=True)
    assert given[0] == plain[0]
    assert all(map(torch.equal, given[1], plain[1]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_every_optimizer_lets_itself_be_recorded(optimizer, monkeypatch):
    """torch refuses some while a GPU's stream is being captured; here it is told that one is."""
    weight = torch.nn.Parameter(torch.ones(5))
    built = build_optimizer(config_of("pixeliqn", optimizer).optimizer, [weight], recorded=True)
    weight.grad = torch.arange(5.0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: SimpleNamespace(is_capturing=lambda: True))
    built.step()
    refused = torch.optim.Adam([weight], fused=True)
    with pytest.raises(RuntimeError, match="capturable is False"):
        refused.step()


def test_the_tape_is_as_strict_as_a_recording():
    """A learning rate that is read on the host would be frozen, or fail, in a CUDA graph; so it is on the tape."""
    value = torch.zeros(3)

    def reads():
        value.add_(float(value.sum()))

    with pytest.raises(RuntimeError, match="host reads"):
        Tape().record(reads)
    replay = Tape().record(lambda: value.add_(1).mul_(2))
    assert torch.equal(value, torch.zeros(3))  # recording runs nothing
    replay()
    replay()
    assert torch.equal(value, torch.full((3,), 6.0))


@pytest.mark.parametrize("tau_mode", ["causal", "local", "paper"])
def test_a_recorded_row_serves_all_rows(tau_mode):
    torch.manual_seed(0)
    settings = {"layers": 2, "planes": 8, "skip_planes": 16, "tau_mode": tau_mode, "conditional": True}
    model = build_model(ModelConfig(name="pixeliqn", **settings), (3, 4, 5), 7).double()
    assert isinstance(model, PixelIQN)
    torch.nn.init.normal_(model.network.head.weight, std=0.2)
    tau, label = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.tensor([3, 6])
    mask = torch.rand(tau.shape) < 0.3
    images = torch.randint(256, tau.shape, dtype=torch.uint8)
    plain, recorded = images.clone(), images.clone()
    CachedSampler(model).fill(plain, tau, label, mask)
    CachedSampler(model, Tape().record).fill(recorded, tau, label, mask)
    assert torch.equal(recorded, plain)
    assert not torch.equal(plain, images)


def test_where_no_graph_can_be_recorded_the_steps_go_on(monkeypatch, caplog):
    """Without a GPU, torch's own recording fails, as it does with a driver that is too old."""
    config = config_of("pixeliqn", OPTIMIZERS[0])
    examples = torch.randint(256, (11, 1, 4, 6), dtype=torch.uint8)
    with caplog.at_level(logging.WARNING):
        recorded = trained(config, examples, None, graphs.graph, fused=True)
    assert "no CUDA graph" in caplog.text
    plain = trained(config, examples, None, None, fused=True)
    torch.testing.assert_close(recorded[0], plain[0], rtol=1e-4, atol=1e-6)
    assert config.train.steps > WARM_UP


def test_where_nothing_can_be_compiled_the_function_is_called(monkeypatch, caplog):
    calls = []

    def refuses(function):
        def fast(*arguments):
            calls.append("compiled")
            raise RuntimeError("no compiler\nhere")

        return fast

    monkeypatch.setattr(torch, "compile", refuses)
    call = graphs.compiled(lambda x: x + 1)
    with caplog.at_level(logging.WARNING):
        assert [call(1), call(2)] == [2, 3]
    assert calls == ["compiled"]
    assert "going on without: no compiler" in caplog.text


def test_an_optimizer_saved_on_another_kind_of_device_goes_on_as_on_this_one():
    config = config_of("pixeliqn", OPTIMIZERS[0])
    weight = torch.nn.Parameter(torch.ones(5))
    there = build_optimizer(config.optimizer, [weight], recorded=True)
    weight.grad = torch.arange(5.0)
    there.step()
    there.param_groups[0]["lr"] = torch.tensor(0.5)
    here = build_optimizer(config.optimizer, [weight])
    here.load_state_dict(there.state_dict())
    assert here.param_groups[0]["fused"] is True
    settle(here)
    assert here.param_groups[0]["fused"] is None
    here.param_groups[0]["lr"] = 0.01
    here.step()
    assert here.state[weight]["step"] == 2


@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
def test_planes_side_by_side_change_nothing_but_rounding(name):
    """The memory format of a GPU, on the CPU."""
    config = config_of(name, OPTIMIZERS[0])
    examples = torch.randint(256, (3, 3, 5, 7), dtype=torch.uint8)
    torch.manual_seed(0)
    model = build_model(config.model, (3, 5, 7))
    torch.nn.init.normal_(model.network.head.weight, std=0.1)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    tau = torch.rand(3, 3, 5, 7)
    for each, batch in ((model, examples), (other, examples.to(memory_format=torch.channels_last))):
        each.loss(batch, tau).backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_the_trunk_computes_in_bfloat16_and_the_ends_do_not():
    config = config_of("pixeliqn", OPTIMIZERS[0])
    state = new_state(config, _Like((3, 5, 7)), torch.device("cpu"))
    network = state.model.network
    network.low_precision = True
    seen: dict[str, torch.dtype] = {}
    block = network.blocks[1]
    for name, module in {"link": block.link, "tau": block.tau_h, "skip": network.skip, "head": network.head}.items():
        module.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, out.dtype))
    tau = torch.rand(3, 3, 5, 7)
    loss = state.model.loss(torch.randint(256, (3, 3, 5, 7), dtype=torch.uint8), tau)
    loss.backward()
    assert seen == {
        "link": torch.bfloat16,
        "tau": torch.float32,
        "skip": torch.bfloat16,
        "head": torch.float32,
    }
    assert loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in state.model.parameters())


class _Like:
    num_classes = 0

    def __init__(self, shape):
        self.shape = shape
