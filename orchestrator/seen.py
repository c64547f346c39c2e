"""What a sampler sees of a study whose trials are parked at rungs.

In the journal a parked trial is RUNNING: Optuna lets none go on that has ended, and it may be promoted. Samplers pass
over running trials, so each would learn only from the few that went through. What they are shown is the truth in the
words that they know: a parked trial is one that was stopped (PRUNED) after its last value.

Audited trials go through whatever they score, and `tpe` takes every trial that completed for better than all that were
stopped. So an audited trial that has not earned its place is shown as stopped at the rung where it would be parked.
"""

import copy
from collections.abc import Callable, Container
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


Until = Callable[[int], int | None]  # of a trial's number the step up to which it is shown; None: all of it


class Shown(Study):
    """A study whose trials a sampler sees as `shown` gives them."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)

    def shown(self) -> list[FrozenTrial]:
        """All trials as they are to be seen; never changed by who is given them."""
        raise NotImplementedError

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self.shown() if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)


def copied(trial: FrozenTrial) -> FrozenTrial:
    """A trial that can be told otherwise; copy.copy takes five times as long, for each of hundreds of trials."""
    found = FrozenTrial.__new__(FrozenTrial)
    found.__dict__.update(trial.__dict__)
    return found


class Seen(Shown):
    """A study in which parked trials have ended, and audited ones where they would have been parked."""

    def __init__(self, study: Study, until: Until) -> None:
        super().__init__(study)
        self._study, self._until = study, until

    def shown(self) -> list[FrozenTrial]:
        return [_as_ended(trial, self._until(trial.number)) for trial in self._study._get_trials(deepcopy=False)]


def _as_ended(trial: FrozenTrial, until: int | None) -> FrozenTrial:
    parked = trial.state == TrialState.RUNNING and is_parked(trial)
    if not parked and (trial.state != TrialState.COMPLETE or until is None):
        return trial
    ended = copied(trial)
    if not parked:
        known = trial.intermediate_values.items()
        ended.intermediate_values = {step: value for step, value in known if until is None or step <= until}
    ended.state, ended.datetime_complete = TrialState.PRUNED, trial.datetime_start
    ended.values = None if ended.last_step is None else [ended.intermediate_values[ended.last_step]]
    return ended


class OfSeen(BaseSampler):
    """A sampler that is shown a study as `Seen` tells it."""

    def __init__(self, sampler: BaseSampler, until: Until) -> None:
        self.sampler, self.until = sampler, until

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(Seen(study, self.until), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(Seen(study, self.until), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.sampler.sample_independent(Seen(study, self.until), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(Seen(study, self.until), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.sampler.after_trial(Seen(study, self.until), trial, state, values)
