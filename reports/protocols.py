"""Numbers that were measured in different ways never share a column."""

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.runs import Run
from reports.results import protocol

UNITS = ("samples", "steps")  # whose values explain themselves when the word follows


def labels(groups: Sequence[Sequence[Run]], metric: str) -> list[str | None]:
    """What sets the protocol of each group of runs apart from those of the others: "" where all are the same.

    None for a group without values, and for one whose own runs were measured in different ways.
    """
    found = [{protocol(run, metric) for run in runs} for runs in groups]
    single = [dict(next(iter(protocols))) if len(protocols) == 1 else None for protocols in found]
    known = [settings for settings in single if settings is not None]
    keys = sorted({key for settings in known for key in settings})
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in known}) > 1]
    return [
        None if settings is None else ", ".join(_worded(key, settings.get(key)) for key in differing)
        for settings in single
    ]


def separated(
    rows: Sequence[dict[str, Any]], names: Sequence[str | None], measured: Callable[[str], bool], missing: Any
) -> list[dict[str, Any]]:
    """The rows with each measured column split into one for each protocol, `names` being that of each row."""
    different = list(dict.fromkeys(name for name in names if name is not None))
    result = []
    for row, name in zip(rows, names, strict=True):
        cells: dict[str, Any] = {}
        for column, value in row.items():
            if not measured(column):
                cells[column] = value
            elif len(different) < 2:
                cells[column] = missing if name is None else value
            else:
                cells |= {f"{column} ({other})": value if other == name else missing for other in different}
        result.append(cells)
    return result


def _worded(key: str, value: Any) -> str:
    number = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{number} {key}" if key in UNITS else f"{key} {number}"
