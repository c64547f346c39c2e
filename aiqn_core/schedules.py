"""The learning rate over the steps. Each schedule has its settings, and says itself whether it follows their number."""

import math
from typing import Annotated, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from aiqn_core.settings import ConfigError, Count, Positive, Problem, Settings

PAPER_BOUNDARIES, PAPER_FACTORS = (120_000, 180_000), (0.3, 0.1)
WarmUp = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@runtime_checkable
class Schedule(Protocol):
    """What a schedule has to be, ours and anybody's: a pydantic class of settings with these two."""

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with at one step (the first is 0) of `steps`."""

    @property
    def follows_steps(self) -> bool:
        """Whether `factor` depends on `steps`: then a longer training is another one from its start."""


class _Warming(Settings):
    warmup: WarmUp = 0
    """Steps over which the rate rises linearly to its full value; 0: none."""

    @property
    def follows_steps(self) -> bool:
        """Whether a longer training differs from its start."""
        return True

    def factor(self, step: int, steps: int) -> float:
        """The factor of one step, with the warm-up in it."""
        full = self.after(step, steps)
        return full if step >= self.warmup else full * (step + 1) / (self.warmup + 1)

    def after(self, step: int, steps: int) -> float:
        """The factor without the warm-up."""
        return 1.0

    def _share(self, step: int, steps: int) -> float:
        """How much of the steps after the warm-up is done, from 0 to 1."""
        return min(1.0, max(0.0, (step - self.warmup) / max(1, steps - self.warmup)))


class Constant(_Warming):
    """The same rate at every step."""

    @property
    def follows_steps(self) -> bool:
        """No: a longer training only goes on."""
        return False


class Decay(_Warming):
    """The rate times `factors[i]` from step `boundaries[i]` on."""

    boundaries: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """The steps; left out, 40 % and 60 % of all, which is the paper's regime at any number of steps."""
    factors: Annotated[tuple[Positive, ...], Field(min_length=1)] = PAPER_FACTORS
    """Of the first rate, one for each boundary."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.boundaries is None:
            if len(self.factors) != 2:
                message = f"missing; {len(self.factors)} factors need as many boundaries"
                raise ConfigError([Problem("boundaries", message)])
        elif len(self.boundaries) != len(self.factors):
            message = f"saw {len(self.factors)} factors for {len(self.boundaries)} boundaries, expected one for each"
            raise ConfigError([Problem("factors", message)])
        elif list(self.boundaries) != sorted(set(self.boundaries)):
            message = f"saw {list(self.boundaries)}, expected increasing steps"
            raise ConfigError([Problem("boundaries", message)])
        return self

    @property
    def follows_steps(self) -> bool:
        """Only where the boundaries are shares of the steps."""
        return self.boundaries is None

    def after(self, step: int, steps: int) -> float:
        """1, then each of the factors."""
        boundaries = self.boundaries or (round(0.4 * steps), round(0.6 * steps))
        return (1.0, *self.factors)[sum(step >= boundary for boundary in boundaries)]


class PaperDecay(Decay):
    """The paper's regime: with lr 1e-4, 1e-4 for 120K steps, 3e-5 for 60K, 1e-5 after (appendix)."""

    boundaries: tuple[Count, ...] = PAPER_BOUNDARIES
    """The paper's steps; `decay` takes others."""
    factors: tuple[Positive, ...] = PAPER_FACTORS
    """The paper's factors; `decay` takes others."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for key, value in (("boundaries", PAPER_BOUNDARIES), ("factors", PAPER_FACTORS)):
            if getattr(self, key) != value:
                message = f"saw {list(getattr(self, key))}, but paper_decay has {list(value)}; use decay for others"
                raise ConfigError([Problem(key, message)])
        return self


class Cosine(_Warming):
    """Half a cosine from the full rate down to a share of it (Loshchilov and Hutter 2017, without restarts)."""

    final: Share = 0.0
    """The share of the rate at the end."""

    def after(self, step: int, steps: int) -> float:
        """final + (1 - final) (1 + cos(π t)) / 2, at the share t of the steps."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * self._share(step, steps))) / 2


class Linear(_Warming):
    """A straight line from the full rate down to a share of it."""

    final: Share = 0.0
    """The share of the rate at the end."""

    def after(self, step: int, steps: int) -> float:
        """1 - (1 - final) t, at the share t of the steps."""
        return 1 - (1 - self.final) * self._share(step, steps)


class OneCycle(_Warming):
    """Up to the full rate and down again, both by half a cosine (Smith and Topin 2018; the form of torch's)."""

    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of the steps after which the rate is full."""
    first: Annotated[float, Field(gt=0, le=1)] = 0.04
    """The share of the rate at the start."""
    final: Share = 4e-6
    """The share of the rate at the end."""

    def after(self, step: int, steps: int) -> float:
        """Half a cosine from `first` to 1, then one from 1 to `final`."""
        share = self._share(step, steps)
        rising = share < self.rise
        start, end = (self.first, 1.0) if rising else (1.0, self.final)
        part = share / self.rise if rising else (share - self.rise) / (1 - self.rise)
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


SCHEDULES: dict[str, type[Settings]] = {
    "constant": Constant,
    "decay": Decay,
    "paper_decay": PaperDecay,
    "cosine": Cosine,
    "linear": Linear,
    "one_cycle": OneCycle,
}
