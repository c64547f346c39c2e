"""Configurations that follow from a trial's number alone: at random, a shuffled grid, and a quasi-random sequence.

None asks how other trials ended, so the same sweep file gives the same configurations whatever fails, restarts, is
pruned or is in flight. Optuna's own GridSampler and QMCSampler place a trial by those that have ended before it.
"""

import functools
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from aiqn_core.config import ConfigError
from orchestrator.space import LARGEST_GRID, Choice, Number, Space, count_combinations, grid, suggest

DRAWN = 4  # points of the sequence for each configuration of a finite space; those that none of them meets come last

Point = dict[str, Any]  # in Optuna's names


class ByNumber(BaseSampler):
    """A sampler whose choices for a trial follow from its number, and from what was enqueued up to it."""

    def __init__(self, space: Space | None = None) -> None:
        self.space = space or Space()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        return {}


class AtRandom(ByNumber):
    """Each trial drawn by itself, with a seed of its own.

    A trial is always drawn as a whole: one that a crash left with some of its parameters gets those it would have had.
    """

    def __init__(self, space: Space | None = None, *, seed: int = 0) -> None:
        super().__init__(space)
        self._seed = seed
        self._drawn: dict[int, Point] = {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, _: BaseDistribution) -> Any:
        if trial.number not in self._drawn:
            fixed = dict(trial.system_attrs.get("fixed_params", {}))
            point = self._draw(trial.number, fixed)
            if not trial.params.items() <= point.items():  # chosen by another version of this program
                point = self._draw(trial.number, fixed | trial.params)
            self._drawn[trial.number] = point
        return self._drawn[trial.number][param_name]

    def _draw(self, number: int, fixed: Point) -> Point:
        seed = random.Random(f"{self._seed}/{number}").getrandbits(31) if number else self._seed  # noqa: S311
        study = optuna.create_study(sampler=RandomSampler(seed))
        study.enqueue_trial(fixed)
        trial = study.ask()
        suggest(trial, self.space)
        return trial.params


class EveryCombination(ByNumber):
    """Each configuration of a finite space once, in a shuffled order, then each once more.

    Configurations that the sweep file enqueues take their place in the order at the number where they come.
    """

    def __init__(self, space: Space | None = None) -> None:
        super().__init__(space)
        self._order = grid(self.space)
        random.Random(0).shuffle(self._order)  # noqa: S311 (not a secret; so that half a grid is spread over the space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, _: BaseDistribution) -> Any:
        point = listed(self._order, enqueued(study, trial), trial.number)
        return point[param_name] if param_name in point else next(p for p in self._order if param_name in p)[param_name]


class QuasiRandom(ByNumber):
    """A Sobol or Halton sequence over all parameters of a space, branches included, indexed by the trial's number.

    `scramble` randomises the sequence by the seed (Owen 1995); without it the first point is the lower end of every
    range. Of a finite space (up to LARGEST_GRID) no configuration comes twice before each has come once. The two
    arguments that start with `warn_` are Optuna's; there is nothing to warn of here.
    """

    def __init__(
        self,
        space: Space | None = None,
        *,
        qmc_type: str = "sobol",
        scramble: bool = True,
        seed: int = 0,
        warn_asynchronous_seeding: bool = True,
        warn_independent_sampling: bool = True,
    ) -> None:
        if qmc_type not in ("sobol", "halton"):
            raise ValueError(f"qmc_type: saw {qmc_type!r}, expected sobol or halton")
        super().__init__(space)
        self._seed = seed
        self._names = list(dict.fromkeys(one.name for one in self.space.every()))
        self._settings = qmc_type, scramble, seed, len(self._names)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._order:
            point = listed(self._order, enqueued(study, trial), trial.number)
            if param_name in point:
                return point[param_name]
        return placed(point_at(*self._settings, trial.number)[self._names.index(param_name)], param_distribution)

    @functools.cached_property
    def _order(self) -> list[Point]:
        """Every configuration of a finite space, as the sequence first meets it; empty for any other space."""
        try:
            if count_combinations(self.space, Number.points) > LARGEST_GRID:
                return []
            left = {repr(sorted(point.items())): point for point in grid(self.space)}  # repr: 1 is not True
        except ConfigError:  # a continuous range
            return []
        found: list[Point] = []
        for uniform in sequence(*self._settings, 2 ** math.ceil(math.log2(DRAWN * len(left)))):
            point = chosen(self.space, dict(zip(self._names, uniform, strict=True)))
            new = left.pop(repr(sorted(point.items())), None)
            found += [] if new is None else [new]
        rest = list(left.values())
        random.Random(self._seed).shuffle(rest)  # noqa: S311
        return found + rest


def enqueued(study: Study, trial: FrozenTrial) -> dict[int, Point]:
    """What is fixed, in part or in full, of the trials up to `trial`, by number."""
    # All trials of the storage, not of `study`, which under Hyperband is a view of one bracket.
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)[: trial.number + 1]
    return {one.number: one.system_attrs["fixed_params"] for one in trials if "fixed_params" in one.system_attrs}


def listed(order: Sequence[Point], fixed: Mapping[int, Point], number: int) -> Point:
    """The configuration of a trial where each takes the first of `order` that is left and agrees with what is fixed.

    Once all are taken, all are there again. Where nothing that agrees is left, one that is taken comes again; where
    nothing at all agrees, the result is empty.
    """
    if not fixed:
        return order[number % len(order)]
    left = deque(order)
    for earlier in range(number + 1):
        left = left or deque(order)
        given = fixed.get(earlier)
        if not given:
            point = left.popleft()
            continue
        taken = next((one for one in left if agrees(given, one)), None)
        point = taken or next((one for one in order if agrees(given, one)), {})
        if taken is not None:
            left.remove(taken)
    return point


def agrees(given: Point, point: Point) -> bool:
    """Whether a configuration has all given values, numbers compared as far as a sweep file tells steps apart."""
    return all(key in point and _same(value, point[key]) for key, value in given.items())


def _same(one: Any, other: Any) -> bool:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return math.isclose(one, other, rel_tol=1e-6)
    return type(one) is type(other) and bool(one == other)


def sequence(kind: str, scramble: bool, seed: int, dimensions: int, count: int, first: int = 0) -> list[list[float]]:
    """`count` points from number `first` on of a low-discrepancy sequence in [0, 1)^dimensions: (count, dimensions)."""
    from scipy.stats import qmc

    if not dimensions:
        return [[]] * count
    engine = (qmc.Sobol if kind == "sobol" else qmc.Halton)(dimensions, scramble=scramble, rng=seed)
    if first:
        engine.fast_forward(first)
    return [[float(u) for u in point] for point in engine.random(count)]


@functools.lru_cache(maxsize=4096)  # a trial asks once for each of its parameters
def point_at(kind: str, scramble: bool, seed: int, dimensions: int, number: int) -> list[float]:
    """Point `number` of the sequence: (dimensions,)."""
    return sequence(kind, scramble, seed, dimensions, 1, number)[0]


def chosen(space: Space, uniform: Mapping[str, float]) -> Point:
    """The configuration of a finite space at a point of the unit cube, in Optuna's names."""
    point: Point = {}
    for dimension in space.dimensions:
        u = uniform[dimension.name]
        if isinstance(dimension, Choice):
            index = _index(u, len(dimension.values))
            point[dimension.name] = dimension.encoded()[index]
            point |= chosen(dimension.branches[index], uniform)
        elif dimension.log:
            point[dimension.name] = placed(u, IntDistribution(int(dimension.low), int(dimension.high), log=True))
        else:
            values = _points(dimension)
            point[dimension.name] = values[_index(u, len(values))]
    return point


@functools.cache
def _points(number: Number) -> list[float]:
    return number.points()


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
