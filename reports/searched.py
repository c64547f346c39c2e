"""What was searched, as the sweep file says: which parameters are ranges, which are choices, and where they apply."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from reports.analysis import is_number
from reports.results import Results
from reports.rounding import parameter
from reports.tables import Table

FEW = 12  # values of a range of whole numbers, or with steps, up to which they are looked at one by one


class Searched(NamedTuple):
    """One dimension of a search space: a parameter, the choices it hangs on, and its range or its values."""

    name: str
    when: str  # "" where it always applies
    values: tuple[Any, ...]  # of a choice; empty for a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None  # None: continuous

    @property
    def continuous(self) -> bool:
        """Whether its values are points on an axis: a range with more values than can be told one by one."""
        return not self.values and (self.step is None or (self.high - self.low) / self.step >= FEW)

    @property
    def words(self) -> str:
        """The range or the values, as people write them."""
        if self.values:
            return ", ".join(parameter(value) for value in self.values)
        step = f", in steps of {parameter(self.step)}" if self.step is not None else ""
        scale = ", logarithmic" if self.log else ""
        return f"{parameter(self.low)} to {parameter(self.high)}{step}{scale}"


class Scale(NamedTuple):
    """How the values of one parameter are to be drawn."""

    continuous: bool
    log: bool | None  # None: as its values ask for


def searched(results: Results, arm: str) -> list[Searched]:
    """The dimensions of an arm's space in the order of the sweep file; empty where none is recorded."""
    return list(_walk(((results.sweep.get("arms") or {}).get(arm) or {}).get("space"), ""))


def scales(results: Results, arm: str) -> dict[str, Scale]:
    """How to draw each parameter that the space names; one that is a range in some branch only is a range."""
    found: dict[str, list[Searched]] = {}
    for one in searched(results, arm):
        found.setdefault(one.name, []).append(one)
    return {
        name: Scale(
            any(one.continuous for one in dimensions),
            all(one.log for one in dimensions) if not any(one.values for one in dimensions) else None,
        )
        for name, dimensions in found.items()
    }


def space_table(results: Results) -> Table:
    """Every dimension of every arm; arms with the same space share its rows."""
    spaces: dict[tuple[Searched, ...], list[str]] = {}
    for arm in results.arms:
        spaces.setdefault(tuple(searched(results, arm)), []).append(arm)
    rows = [
        {"arms": ", ".join(arms), "parameter": one.name, "values": one.words, "where": one.when}
        for space, arms in spaces.items()
        for one in space
    ]
    data = pd.DataFrame(rows, columns=["arms", "parameter", "values", "where"])
    shown = data.rename(columns=lambda name: str(name).capitalize())
    return Table(
        "space",
        "What was searched",
        data,
        shown,
        tuple(shown.columns),
        empty="the sweep file gives no arm anything to search",
    )


def _walk(space: object, when: str) -> Iterator[Searched]:
    if not isinstance(space, Mapping):
        return
    for name, written in space.items():
        if isinstance(written, list) and written:
            yield Searched(str(name), when, tuple(_plain(value) for value in written))
        elif isinstance(written, Mapping) and isinstance(written.get("choices"), list):
            branches = written.get("spaces")
            yield Searched(str(name), when, tuple(_plain(value) for value in written["choices"]))
            for choice, below in branches.items() if isinstance(branches, Mapping) else ():
                yield from _walk(below, f"{when}{', ' if when else ''}{name} = {choice}")
        elif isinstance(written, Mapping) and is_number(written.get("low")) and is_number(written.get("high")):
            low, high, step = written["low"], written["high"], written.get("step")
            whole = isinstance(low, int) and isinstance(high, int)
            step = step if step is not None and is_number(step) and step > 0 else 1 if whole else None
            yield Searched(str(name), when, (), low, high, bool(written.get("log")), step)


def _plain(value: Any) -> Any:
    """A value that can be hashed: that of a choice among mappings or lists is its text."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
