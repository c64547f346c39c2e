"""The optimisers by name, with the fast implementation of the device that the parameters are on."""

import inspect
from typing import Any

import torch
from torch import Tensor

from aiqn_core.config import ConfigError, OptimizerConfig, Problem
from aiqn_core.rmsprop_tf import RMSpropTF
from aiqn_core.settings import written


def build_optimizer(
    config: OptimizerConfig, parameters: list[Tensor], recorded: bool | None = None
) -> torch.optim.Optimizer:
    """The optimiser by name, with the arguments of its settings; raises ConfigError where it refuses the parameters.

    `recorded`: whether its step can be part of a CUDA graph, which reads nothing on the host; None: on a GPU.
    """
    recorded = parameters[0].is_cuda if recorded is None else recorded
    own = arguments(config)
    if config.thing is not None:  # somebody's own class
        built: torch.optim.Optimizer = config.thing(parameters, **own)
        return built
    if config.settings.torch_name == "RMSpropTF":
        return RMSpropTF(parameters, **own)
    kind: Any = getattr(torch.optim, config.settings.torch_name, None)
    if kind is None:
        message = f"saw {config.name!r}, which torch {torch.__version__} does not have; expected another optimiser"
        raise ConfigError([Problem("optimizer.name", message)])
    takes = inspect.signature(kind).parameters
    if "capturable" in takes:
        own["capturable"] = recorded
    if "fused" in takes:
        own["fused"] = recorded or None
    if config.settings.torch_name == "Muon":
        return _with_matrices(kind, parameters, own)
    found: torch.optim.Optimizer = kind(parameters, **own)
    return found


def arguments(config: OptimizerConfig) -> dict[str, Any]:
    """The settings under the names of the optimiser's own arguments: two keys of ours may be a pair there."""
    own = written(config.settings) if config.thing is not None else dict(config.settings)
    for pair, keys in getattr(config.settings, "pairs", {}).items():
        own[pair] = tuple(own.pop(key) for key in keys)
    return own


def can_be_recorded(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step can be part of a CUDA graph: where the optimiser says so, or reads nothing on the host."""
    if isinstance(optimizer, RMSpropTF):
        return True
    return all(bool(group.get("capturable") or group.get("fused")) for group in optimizer.param_groups)


class _Both(torch.optim.Optimizer):
    """Two optimisers that step together, each with its own parameters, as one with two groups."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        groups = [*first.param_groups, *second.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.both = first, second
        self._share()

    def _share(self) -> None:
        self.param_groups = [group for one in self.both for group in one.param_groups]
        # One mapping for all: what either keeps of a parameter is what is saved.
        for one in self.both:
            self.state.update(one.state)
            one.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each."""
        for one in self.both:
            one.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Both go on from what was saved."""
        super().load_state_dict(state_dict)
        count = len(self.both[0].param_groups)
        for one, groups in zip(self.both, (self.param_groups[:count], self.param_groups[count:]), strict=True):
            one.param_groups, one.state = groups, self.state


def _with_matrices(kind: Any, parameters: list[Tensor], own: dict[str, Any]) -> torch.optim.Optimizer:
    """Muon for the matrices, AdamW with the same rate and decay for all that it does not take."""
    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    others = [parameter for parameter in parameters if parameter.ndim != 2]
    if not matrices:
        message = "saw 'muon', but the model has no matrix among its parameters; expected another optimiser"
        raise ConfigError([Problem("optimizer.name", message)])
    first: torch.optim.Optimizer = kind(matrices, **own)
    if not others:
        return first
    return _Both(first, torch.optim.AdamW(others, lr=own["lr"], weight_decay=own["weight_decay"]))


def settle(optimizer: torch.optim.Optimizer) -> None:
    """After loading a state: compute as on this device, also where the state was saved on another kind."""
    for group in optimizer.param_groups:
        group |= {
            key: optimizer.defaults[key]
            for key in ("capturable", "fused", "foreach")
            if key in group and key in optimizer.defaults
        }
        on_device = group.get("capturable") or group.get("fused")
        for parameter in group["params"]:
            count = optimizer.state.get(parameter, {}).get("step")
            if count is not None:
                device = parameter.device if on_device else torch.device("cpu")
                optimizer.state[parameter]["step"] = torch.as_tensor(count, dtype=torch.float32, device=device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """The learning rate of the next step; a tensor on the device can change under a recorded step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
