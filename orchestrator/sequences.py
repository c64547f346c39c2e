"""Configurations that follow from a trial's number alone: a shuffled grid, and a quasi-random sequence.

Neither asks how other trials ended, so the same sweep file gives the same configurations whatever fails, restarts or
is in flight. Optuna's own GridSampler and QMCSampler place a trial by those that have ended before it.
"""

import functools
import math
import random
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from aiqn_core.config import ConfigError
from orchestrator.space import Choice, Number, Space, count_combinations, grid

FINITE = 1024  # spaces of up to so many configurations are gone through without repeats by a quasi-random sequence
DRAWN = 4  # points of the sequence for each of these configurations; those that none of them meets come last

Point = dict[str, Any]  # in Optuna's names


class BySequence(BaseSampler):
    """What a grid and a quasi-random sequence share: each parameter is placed independently, by the trial's number."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        return {}


class EveryCombination(BySequence):
    """Each configuration of a finite space once, in a shuffled order, then each once more.

    Configurations that the sweep file enqueues take their numbers, and are left out of the order after them.
    """

    def __init__(self, space: Space | None = None) -> None:
        self._grid = grid(space or Space())
        random.Random(0).shuffle(self._grid)  # noqa: S311 (not a secret; so that half a grid is spread over the space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, _: BaseDistribution) -> Any:
        return listed(self._grid, study, trial)[param_name]


class QuasiRandom(BySequence):
    """A Sobol or Halton sequence over all parameters of a space, branches included, indexed by the trial's number.

    `scramble` randomises the sequence by the seed (Owen 1995); without it the first point is the lower end of every
    range. Of a finite space no configuration comes twice before each has come once.
    """

    def __init__(
        self, space: Space | None = None, *, qmc_type: str = "sobol", scramble: bool = True, seed: int = 0
    ) -> None:
        if qmc_type not in ("sobol", "halton"):
            raise ValueError(f"qmc_type: saw {qmc_type!r}, expected sobol or halton")
        self._space, self._settings = space or Space(), (qmc_type, scramble, seed)
        self._names = list(dict.fromkeys(names(self._space)))
        self._order: list[Point] | None = None

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._order is None:
            self._order = self._finite_order()
        if self._order:
            point = listed(self._order, study, trial)
            if param_name in point:
                return point[param_name]
        return placed(self._uniform(trial.number)[param_name], param_distribution)

    def _uniform(self, index: int) -> dict[str, float]:
        return dict(zip(self._names, sequence_point(*self._settings, len(self._names), index), strict=True))

    def _finite_order(self) -> list[Point]:
        """Every configuration of a small finite space, as the sequence first meets it; empty for any other space."""
        try:
            if count_combinations(self._space, Number.points) > FINITE:
                return []
            left = grid(self._space)
        except ConfigError:  # a continuous range
            return []
        found: list[Point] = []
        for index in range(DRAWN * len(left)):
            point = chosen(self._space, self._uniform(index))
            if point in left:
                left.remove(point)
                found.append(point)
        random.Random(self._settings[2]).shuffle(left)  # noqa: S311
        return found + left


def names(space: Space) -> Iterator[str]:
    """What Optuna calls each dimension of a space, those inside of branches included."""
    for dimension in space.dimensions:
        yield dimension.name
        if isinstance(dimension, Choice):
            for branch in dimension.branches:
                yield from names(branch)


def listed(order: list[Point], study: Study, trial: FrozenTrial) -> Point:
    """The configuration of a trial in a list of all, less those that were enqueued before it.

    Of those that agree with what is fixed of the trial, where some of it is.
    """
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)[: trial.number]
    fixed = [dict(other.system_attrs["fixed_params"]) for other in trials if "fixed_params" in other.system_attrs]
    left = [point for point in order if point not in fixed] or order
    given = trial.system_attrs.get("fixed_params", {})
    possible = [point for point in left if given.items() <= point.items()] or [
        point for point in order if given.items() <= point.items()
    ]
    return possible[(trial.number - len(fixed)) % len(possible)]


@functools.lru_cache(maxsize=4096)
def sequence_point(kind: str, scramble: bool, seed: int, dimensions: int, index: int) -> tuple[float, ...]:
    """Point `index` of a low-discrepancy sequence in [0, 1)^dimensions."""
    from scipy.stats import qmc

    if not dimensions:
        return ()
    make = qmc.Sobol if kind == "sobol" else qmc.Halton
    sequence = make(dimensions, scramble=scramble, rng=seed)
    if index:
        sequence.fast_forward(index)
    return tuple(map(float, sequence.random(1)[0]))


def chosen(space: Space, uniform: dict[str, float]) -> Point:
    """The configuration of a finite space at a point of the unit cube, in Optuna's names."""
    point: Point = {}
    for dimension in space.dimensions:
        if isinstance(dimension, Choice):
            index = _index(uniform[dimension.name], len(dimension.values))
            point[dimension.name] = dimension.encoded()[index]
            point |= chosen(dimension.branches[index], uniform)
        else:
            values = dimension.points()
            point[dimension.name] = values[_index(uniform[dimension.name], len(values))]
    return point


def placed(u: float, distribution: BaseDistribution) -> Any:
    """The value at a fraction u of a parameter's range, on its own scale and steps."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[_index(u, len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.step is not None and not distribution.log:
        count = round((high - low) / distribution.step) + 1
        value = low + distribution.step * _index(u, count)
        return int(value) if isinstance(distribution, IntDistribution) else float(min(value, high))
    if isinstance(distribution, IntDistribution):  # a logarithmic range of integers: each has its share
        bottom, top = math.log(low - 0.5), math.log(high + 0.5)
        return min(max(round(math.exp(bottom + u * (top - bottom))), low), high)
    if distribution.log:
        return min(max(math.exp(math.log(low) + u * (math.log(high) - math.log(low))), low), high)
    return low + u * (high - low)


def _index(u: float, count: int) -> int:
    return min(int(u * count), count - 1)
