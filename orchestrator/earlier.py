"""Prior knowledge: the search trials of an earlier run, told to the samplers of a new one (`search.from`)."""

import math

import optuna
from optuna.trial import FixedTrial, TrialState, create_trial

from aiqn_core.config import settled
from orchestrator.causes import RECORDED, Stage
from orchestrator.runs import Run, RunFolderError, load_runs
from orchestrator.sections import Sweep
from orchestrator.space import optuna_params, suggest

ATTRIBUTE = "earlier"  # of a trial in the study: the run folder and trial that it was taken from


def tell_earlier(sweep: Sweep, studies: dict[tuple[str, Stage], optuna.Study]) -> None:
    """Add the trials of `search.from` to the search studies, once; a start that was killed in between goes on.

    Raises RunFolderError where the run is missing, or none of its trials is one that this sweep could have made.
    """
    source = sweep.search.earlier
    if source is None or all(studies[arm, Stage.SEARCH].user_attrs.get(ATTRIBUTE) == source for arm in sweep.arms):
        return
    fitting = fitting_runs(sweep)
    for arm in sweep.arms:
        study = studies[arm, Stage.SEARCH]
        known = {trial.user_attrs.get(ATTRIBUTE) for trial in study.get_trials(deepcopy=False)}
        for run in fitting[arm]:
            if (origin := f"{source} {run.id}") not in known:
                study.add_trial(_as_trial(sweep, run, origin))
        study.set_user_attr(ATTRIBUTE, source)


def fitting_runs(sweep: Sweep) -> dict[str, list[Run]]:
    """By arm the search trials of `search.from` that this sweep could have made; RunFolderError where there is none."""
    source = str(sweep.search.earlier)
    runs = [run for run in load_runs(source) if run.stage == Stage.SEARCH and run.state in RECORDED]
    fitting = {arm: [run for run in runs if run.arm == arm and comparable(sweep, run)] for arm in sweep.arms}
    if not any(fitting.values()):
        raise RunFolderError(
            f"search.from: {source} holds {len(runs)} search trials that ended, but none that this sweep could have"
            " made. Expected an arm of the same name with the same data, training, evaluation and objective."
        )
    return fitting


def comparable(sweep: Sweep, run: Run) -> bool:
    """Whether this sweep could have made the trial: only then does its value say something about this space."""
    try:
        optuna_params(sweep.arms[run.arm].space, run.params)
        config = sweep.config(run.arm, run.params, run.seed).to_dict()
    except (KeyError, ValueError):
        return False
    return settled(run.config) == settled(config)


def _as_trial(sweep: Sweep, run: Run, origin: str) -> optuna.trial.FrozenTrial:
    space = sweep.arms[run.arm].space
    fixed = optuna_params(space, run.params)
    asked = FixedTrial(fixed)
    suggest(asked, space)
    curves = [dict(run.curve(objective.metric)) for objective in sweep.search.objectives]
    steps = [step for step in curves[0] if step > 0 and all(step in curve for curve in curves)]
    values = [curve[steps[-1]] for curve in curves] if steps else []
    completed = run.state == "completed" and bool(values) and all(map(math.isfinite, values))
    return create_trial(
        state=TrialState.COMPLETE if completed else TrialState.PRUNED,
        values=values if completed else None,
        params=fixed,
        distributions=asked.distributions,
        user_attrs={ATTRIBUTE: origin, "outcome": {"state": run.state, "cause": run.cause}},
        intermediate_values={step: curves[0][step] for step in steps} if len(curves) == 1 else None,
    )
