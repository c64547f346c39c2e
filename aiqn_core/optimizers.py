"""The optimisers by name, with the fast implementation of the device that the parameters are on."""

from typing import Any

import torch
from torch import Tensor

from aiqn_core.config import OptimizerConfig
from aiqn_core.rmsprop_tf import RMSpropTF


def build_optimizer(
    config: OptimizerConfig, parameters: list[Tensor], recorded: bool | None = None
) -> torch.optim.Optimizer:
    """The optimiser by name; its arguments were completed by OptimizerConfig.

    `recorded`: whether its step can be part of a CUDA graph, which reads nothing on the host; None: on a GPU.
    """
    recorded = parameters[0].is_cuda if recorded is None else recorded
    own: dict[str, Any] = {key: value for key, value in vars(config).items() if value is not None}
    del own["name"]
    match config.name:
        case "rmsprop":  # torch has no fused one
            return torch.optim.RMSprop(parameters, **own, capturable=recorded)
        case "rmsprop_tf":
            return RMSpropTF(parameters, **own)
        case "adam":
            betas = own.pop("beta1"), own.pop("beta2")
            return torch.optim.Adam(parameters, betas=betas, **own, fused=recorded or None, capturable=recorded)
        case "sgd":
            return torch.optim.SGD(parameters, **own, fused=recorded or None)


def settle(optimizer: torch.optim.Optimizer) -> None:
    """After loading a state: compute as on this device, also where the state was saved on another kind."""
    for group in optimizer.param_groups:
        group |= {key: optimizer.defaults[key] for key in ("capturable", "fused", "foreach") if key in group}
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
