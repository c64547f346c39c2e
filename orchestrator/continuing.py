"""Whether a sweep may go on in a run folder: asked by its start, and by what only says what a start would do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator import shapes
from orchestrator.causes import State
from orchestrator.data_checks import run_data
from orchestrator.runs import FINISHED, TRIAL_ID, RunFolder, RunFolderError
from orchestrator.sections import CODE_HASH, Sweep, differences

SHOWN = 3  # trials that are named


class Continued(NamedTuple):
    """What stands in the run folder's sweep.json (None: nothing yet), and the data of its arms with their checksums."""

    before: dict[str, Any] | None
    data: dict[str, str]


def check_continues(run: RunFolder, sweep: Sweep) -> Continued:
    """Raises RunFolderError where the run folder holds trials of another question, or of other data.

    The same where `search.from`, which a first start reads, gives nothing to learn from.
    """
    before = run.sweep_if_begun()
    if before is not None and (reason := shapes.wrong(before["sweep"], shapes.RESUMED, "sweep")):
        raise RunFolderError(f"{run.sweep_json}: damaged, {reason}")
    changed = [] if before is None else differences(before["sweep"], sweep.to_dict())
    if changed := [key for key in changed if key not in allowed_edits(run, sweep, changed)]:
        raise RunFolderError(
            f"{run.path} holds trials of a sweep that differs in: {', '.join(changed)}\n"
            "More trials, arms, seeds and longer finals continue a sweep; anything else would mix two questions.\n"
            f"Undo the change, or give the sweep another name than {sweep.name!r}."
        )
    if before is not None:
        check_room(run, before["sweep"]["search"], sweep)
    if before is None and sweep.search.earlier is not None:
        from orchestrator.earlier import fitting_runs  # Optuna: only where it is asked for

        fitting_runs(sweep)
    return Continued(before, run_data(run, sweep, before))


def allowed_edits(run: RunFolder, sweep: Sweep, changed: Sequence[str]) -> set[str]:
    """Of differing keys those that say that an arm's code was edited, which no trial has used whose numbers count.

    Raises RunFolderError for code that was used, where nothing else differs.
    """
    edited = {f"arms.{arm}.{CODE_HASH}": arm for arm in sweep.arms if f"arms.{arm}.{CODE_HASH}" in changed}
    if not edited:
        return set()
    from orchestrator.aside import with_other_code  # Optuna: only where it is asked for

    used = {arm: trials for arm in edited.values() if (trials := with_other_code(run, sweep, arm))}
    if used and len(edited) == len(changed):
        assert sweep.code is not None
        told = [
            f"arm {arm}: {_count(len(trials), 'trial')} ended with the code before ({', '.join(trials[:SHOWN])}"
            f"{', ...' if len(trials) > SHOWN else ''})"
            for arm, trials in used.items()
        ]
        raise RunFolderError(
            "\n".join(
                (
                    f"{sweep.code.path.name} was edited since trials of {run.path} ended with it:",
                    *told,
                    f"Undo the edit ({run.code} holds what ran), or let the arm start anew, its trials of before kept"
                    f" aside: {' && '.join(f'aiqn retry {run.path} --arm {arm}' for arm in used)}",
                )
            )
        )
    return {key for key, arm in edited.items() if arm not in used}


def check_room(run: RunFolder, before: Mapping[str, Any], sweep: Sweep) -> None:
    """Raises RunFolderError where configurations are added to `search.enqueue` that no trial is left for."""
    known, trials = before.get("enqueue") or {}, sweep.search.trials
    for arm, wanted in (sweep.search.enqueue or {}).items():
        begun = sum(1 for _ in run.trials.glob(f"{arm}-search-*"))
        waiting = len(wanted) - min(len(known.get(arm, ())), begun)
        if len(wanted) > len(known.get(arm, ())) and begun + waiting > trials:
            raise RunFolderError(
                f"{run.path}: search.enqueue.{arm} has {_count(waiting, 'configuration')} to train, but {begun} of"
                f" {_count(trials, 'search trial')} of this arm have begun; raise search.trials to {begun + waiting}"
            )


def continuation(run: RunFolder, before: Mapping[str, Any] | None, sweep: Sweep) -> str:
    """What a start would go on with and what the sweep adds to it, in one line; "" where no trial has started."""
    states = [
        run.trial(path.name).read_status().get("state")
        for path in run.trials.glob("*")
        if TRIAL_ID.fullmatch(path.name)
    ]
    if before is None or not states:
        return ""
    done = sum(state in FINISHED and state != State.PARKED for state in states)
    added = ", ".join(_additions(before["sweep"], sweep))
    return f"{run.path} is continued: {_count(done, 'trial')} {'is' if done == 1 else 'are'} done" + (
        f"; this sweep adds {added}" if added else ""
    )


def _additions(old: Mapping[str, Any], sweep: Sweep) -> Iterator[str]:
    """What the sweep asks for beyond an earlier form of it (of `Sweep.to_dict`)."""
    known, final = [arm for arm in sweep.arms if arm in old["arms"]], sweep.final
    before = old["final"] or {"top": 0, "seeds": [], "steps": None}
    each = " to each arm" if len(known) > 1 else ""
    searched = sweep.search.trials - old["search"]["trials"]
    finals = (final.top * len(final.seeds) if final else 0) - before["top"] * len(before["seeds"])
    if searched:
        yield f"{_count(searched, 'search trial')}{each}"
    if finals:
        yield f"{_count(finals, 'final')}{each}"
    for name in known:
        steps = old["arms"][name]["train"]["steps"]
        was, now = before["steps"] or steps, (final.steps if final else None) or steps
        if old["final"] and now > was:
            yield f"{now - was:,} steps to each final of {name}"
    for name in (name for name in sweep.arms if name not in old["arms"]):
        wanted = final.top * len(final.seeds) if final else 0
        yield f"arm {name} with {_count(sweep.search.trials, 'search trial')} and {_count(wanted, 'final')}"
    if searched and old["final"]:
        yield "finals of the configurations that lead then, where they are others"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
