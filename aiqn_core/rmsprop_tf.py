"""RMSProp as TensorFlow had it when the paper was written: another optimiser than PyTorch's of that name."""

from typing import Any

import torch
from torch import Tensor


class RMSpropTF(torch.optim.Optimizer):
    """v <- alpha v + (1 - alpha) g², m <- momentum m + lr g / sqrt(v + eps), w <- w - m.

    PyTorch's differs in three places: eps is added outside the root, v starts at 0 instead of 1 (so that the first
    steps are large), and lr is applied after the momentum (so that a schedule acts at once).
    """

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float,
        alpha: float = 0.9,
        momentum: float = 0.0,
        eps: float = 1e-10,
        initial_accumulator: float = 1.0,
    ) -> None:
        settings = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps}
        super().__init__(parameters, {**settings, "initial_accumulator": initial_accumulator})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step by the gradients that are there; a closure is not taken."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            squares = [self._state(parameter, group)["square_average"] for parameter in parameters]
            torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            updates = list(torch._foreach_div(gradients, roots))
            torch._foreach_mul_(updates, group["lr"])
            if group["momentum"]:
                momenta = [self.state[parameter]["momentum"] for parameter in parameters]
                torch._foreach_mul_(momenta, group["momentum"])
                torch._foreach_add_(momenta, updates)
                updates = momenta
            torch._foreach_sub_(parameters, updates)

    def _state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["square_average"] = torch.full_like(parameter, group["initial_accumulator"])
            if group["momentum"]:
                state["momentum"] = torch.zeros_like(parameter)
        return state
