"""What happens to trials while a sweep runs, each in one line: one began, ended, is tried again."""

from collections.abc import Mapping, Sequence

from orchestrator.causes import Cause, End, State
from orchestrator.live import clock
from orchestrator.trial import Assignment


def began(assignment: Assignment, step: int, *, promoted: bool) -> str:
    """A trial was handed to a worker; `step` is the one from which it goes on, 0 where it starts."""
    if step == 0:
        return f"{assignment.id} started"
    cause = assignment.causes[-1] if assignment.causes else None
    why = "promoted: " if promoted and cause != Cause.DRIVER_ENDED else ""
    return f"{assignment.id} {why}goes on from step {step:,}"


def ended(
    assignment: Assignment,
    end: End,
    step: int,
    seconds: float,
    scores: Mapping[str, float],
    *,
    again: bool = False,
    log: object = None,
) -> str:
    """A trial left its worker: how, why, its last scores by metric, and what it took of steps and of time.

    `seconds` are those of this attempt. `again` says that it is handed out again. The log is named where it failed.
    """
    steps = assignment.config["train"]["steps"]
    how = "was cut off" if again else str(end.state)
    why = ": ".join(dict.fromkeys(filter(None, (end.recorded, end.message))))
    parts = [f"{metric} {value:.4g}" for metric, value in scores.items()]
    parts.append(f"{step:,} steps" if step >= steps else f"step {step:,} of {steps:,}")
    parts.append(clock(seconds))
    told = f"{assignment.id} {how}" + (f" ({why})" if why else "") + f": {', '.join(parts)}"
    told += "; it is tried again" if again else ""
    told += f"  log: {log}" if log is not None and end.state == State.FAILED and not again else ""
    return "".join(c if c.isprintable() else " " for c in told)


def scored(metrics: Sequence[str], values: Sequence[float] | None) -> dict[str, float]:
    """The objectives' last values by their names; empty where none was measured yet."""
    return dict(zip(metrics, values, strict=True)) if values else {}
