"""What a sampler sees of a study whose trials are parked at rungs.

In the journal a parked trial is RUNNING: Optuna lets none go on that has ended, and it may be promoted. Samplers pass
over running trials, so each would learn only from the few that went through. What they are shown is the truth in the
words that they know: a parked trial is one that was stopped (PRUNED) after its last value.
"""

import copy
from collections.abc import Container
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.causes import State


def is_parked(trial: FrozenTrial) -> bool:
    """Whether the ledger says of a trial that it waits at a rung."""
    outcome = trial.user_attrs.get("outcome") or {}
    return bool(outcome.get("state") == State.PARKED)


class Seen(Study):
    """A study in which parked trials have ended."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [_as_ended(trial) for trial in super()._get_trials(deepcopy=False)]
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)


def _as_ended(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.RUNNING or not is_parked(trial):
        return trial
    ended = copy.copy(trial)
    ended.state, ended.datetime_complete = TrialState.PRUNED, trial.datetime_start
    ended.values = None if trial.last_step is None else [trial.intermediate_values[trial.last_step]]
    return ended


class OfSeen(BaseSampler):
    """A sampler that is shown a study as `Seen` tells it."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(Seen(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(Seen(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.sampler.sample_independent(Seen(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(Seen(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.sampler.after_trial(Seen(study), trial, state, values)
