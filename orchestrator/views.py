"""What a sampler is shown of a study: trials that diverged or were stopped stand as bad ones, and branches stand apart.

Optuna is told the truth: such a trial is PRUNED and has no value. `tpe` ranks it last by itself. The others pass over
it and propose the same again, or wait for trials that complete until the search is over. So they read a view in which
it is complete. And they search only what all trials have, so they are asked for one branch of a space at a time.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.branches import branches_off
from orchestrator.causes import State
from orchestrator.seen import Shown, copied
from orchestrator.space import Choice, Space

Point = dict[str, Any]  # in Optuna's names


class Listening(BaseSampler):
    """One of Optuna's samplers over the view of a study; `make` gives a new one, always with the same seed.

    In a space with branches `tpe` chooses the branch, and the sampler all else from the trials of that branch alone.
    """

    def __init__(self, make: Callable[[], BaseSampler], space: Space, seed: int, *, by_rank: bool) -> None:
        self.make, self.space, self.seed, self.by_rank = make, space, seed, by_rank
        self.chosen: Point = {}
        self.samplers: dict[str, BaseSampler] = {}  # by branch
        self.view: tuple[str, int, View] | None = None  # of which branch, for which trial

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found = self._choose(study, trial)
        sampler, view = self._branch(study, trial)
        own = sampler.infer_relative_search_space(view, trial)
        return {name: one for name, one in own.items() if name not in found} | found

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        sampler, view = self._branch(study, trial)
        own = {name: one for name, one in search_space.items() if name not in self.chosen}
        return sampler.sample_relative(view, trial, own) | self.chosen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler, view = self._branch(study, trial)
        return sampler.sample_independent(view, trial, param_name, param_distribution)

    def _choose(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Choose the branch of a trial (`chosen`), as far as it is not fixed; the distributions of these choices."""
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        tpe = TPESampler(seed=self.seed)
        found: dict[str, BaseDistribution] = {}
        self.chosen, left = {}, list(self.space.dimensions)
        while left:
            choice = left.pop(0)
            if not isinstance(choice, Choice):
                continue
            index = 0
            if branches_off(choice):
                name, values = choice.name, CategoricalDistribution(choice.encoded())
                value = given[name] if name in given else tpe.sample_independent(study, trial, name, values)
                found[name], self.chosen[name], index = values, value, choice.index(value)
            left += choice.branches[index].dimensions
        return found

    def _branch(self, study: Study, trial: FrozenTrial) -> tuple[BaseSampler, "View"]:
        """The sampler of the chosen branch, and what it is to see: made once for a trial, which asks several times."""
        key = "".join(f"{name}={value!r}|" for name, value in self.chosen.items())
        if key not in self.samplers:
            self.samplers[key] = self.make()
        if self.view is None or self.view[:2] != (key, trial._trial_id):
            self.view = key, trial._trial_id, View(study, key, self.chosen, self.by_rank)
        return self.samplers[key], self.view[2]


class View(Shown):
    """A study as a sampler is to see it: its trials with the `chosen` values, each as it `stands`."""

    def __init__(self, study: Study, key: str, chosen: Mapping[str, Any], by_rank: bool) -> None:
        super().__init__(study)
        own = study._get_trials(deepcopy=False)  # where trials are parked, the study says that they have ended (`seen`)
        if chosen:
            own = [one for one in own if chosen.items() <= one.params.items()]
        self._shown = standing(own, self.directions, by_rank)
        if key:
            self._storage: Any = Apart(self._storage, key)

    def shown(self) -> list[FrozenTrial]:
        return self._shown


class Apart:
    """A storage in which what a sampler notes of a study (nsga2: the parents of each generation) is kept by branch."""

    def __init__(self, storage: BaseStorage, key: str) -> None:
        self.storage, self.key = storage, key

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        noted = self.storage.get_study_system_attrs(study_id)
        return {name.removeprefix(self.key): value for name, value in noted.items() if name.startswith(self.key)}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.storage.set_study_system_attr(study_id, self.key + key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def standing(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], by_rank: bool) -> list[FrozenTrial]:
    """The trials as a sampler is to see them: those that are PRUNED stand as COMPLETE, with values of ours.

    One that diverged has the worst value of all so far. One that a pruner stopped has measured more: a sampler that
    goes by ranks sees its last value, but behind all that completed; another sees the end that it was on its way to,
    which is as far below its last value as those that completed came from that step on. Before anything has a value
    these trials are left out.
    """
    if all(one.state != TrialState.PRUNED for one in trials):
        return list(trials)
    signs = [1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in directions]
    ended = [one for one in trials if one.state == TrialState.COMPLETE and all(map(math.isfinite, one.values))]
    found = {one.number: _signed(one.values, signs) for one in ended}
    if len(signs) == 1:
        stopped = _by_rank(trials, ended, signs[0]) if by_rank else _by_course(trials, ended, signs[0])
        found |= {number: [value] for number, value in stopped.items()}
    worst = [max(column) for column in zip(*found.values(), strict=True)]
    if not worst:
        return [one for one in trials if one.state != TrialState.PRUNED]
    return [
        one if one.state != TrialState.PRUNED else _completed(one, _signed(found.get(one.number, worst), signs))
        for one in trials
    ]


def _by_rank(trials: Sequence[FrozenTrial], ended: Sequence[FrozenTrial], sign: float) -> dict[int, float]:
    worst = max((sign * one.values[0] for one in ended), default=-math.inf)
    return {number: max(worst, sign * value) for number, (_, value) in _last(trials).items()}


def _by_course(trials: Sequence[FrozenTrial], ended: Sequence[FrozenTrial], sign: float) -> dict[int, float]:
    last = _last(trials)
    ahead: dict[int, float] = {}  # how much lower than at a step those ended that completed
    for step in {step for step, _ in last.values()}:
        there = [(one.intermediate_values.get(step), one.values[0]) for one in ended]
        gains = [sign * (value - end) for value, end in there if value is not None and math.isfinite(value)]
        ahead[step] = statistics.fmean(gains) if gains else 0.0
    return {number: sign * value - ahead[step] for number, (step, value) in last.items()}


def _last(trials: Sequence[FrozenTrial]) -> dict[int, tuple[int, float]]:
    """The last step, and the value there, of the trials that a pruner stopped or a rung parked, by number."""
    found = {}
    for one in trials:
        outcome = one.user_attrs.get("outcome") or {}
        if one.state == TrialState.PRUNED and outcome.get("state", State.PRUNED) in (State.PRUNED, State.PARKED):
            step = one.last_step
            if step is not None and math.isfinite(value := one.intermediate_values[step]):
                found[one.number] = step, value
    return found


def _signed(values: Sequence[float], signs: Sequence[float]) -> list[float]:
    return [sign * value for sign, value in zip(signs, values, strict=True)]


def _completed(trial: FrozenTrial, values: list[float]) -> FrozenTrial:
    ended = copied(trial)
    ended.state, ended.values = TrialState.COMPLETE, values
    return ended
