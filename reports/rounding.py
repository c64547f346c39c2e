"""Numbers as people read them: rounding never flatters."""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from reports.results import Summary

MISSING = "—"
LONGEST = 1e15  # from here on all digits before the point say nothing more than the power of ten


def rounded(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits; digits before the point are all kept."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value != 0 and not 1e-4 <= abs(value) < LONGEST:
        return f"{value:.{digits - 1}e}"
    number = Decimal(repr(float(value)))
    return f"{_at(number, min(0, number.adjusted() - digits + 1) if number else 0):,f}"


def plus_minus(summary: Summary | None) -> str:
    """Mean ± s.d.: the s.d. has two significant digits and is rounded up, the mean ends at the same place."""
    if summary is None:
        return MISSING
    if not summary.deviation:
        return rounded(summary.mean) + ("" if summary.deviation is None else " ± 0")
    if max(abs(summary.mean), summary.deviation) >= LONGEST:
        return f"{summary.mean:.3e} ± {summary.deviation:.1e}"
    deviation = Decimal(repr(summary.deviation))
    place = min(0, deviation.adjusted() - 1)
    return f"{_at(Decimal(repr(float(summary.mean))), place):,f} ± {_at(deviation, place, ROUND_CEILING):,f}"


def _at(number: Decimal, place: int, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    return number.quantize(Decimal(1).scaleb(place), rounding=rounding)


def whole(values: Iterable[Any]) -> str:
    """The distinct integers among values, for example "1,000" or "500, 1,000"."""
    numbers = sorted({value for value in values if isinstance(value, int)})
    return ", ".join(f"{number:,}" for number in numbers) or MISSING


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it: "42 s", "12 min", "3.1 h"."""
    if value is None:
        return MISSING
    if value < 10:
        return f"{value:.1f} s"
    if value < 300:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:,.1f} h"


def parameter(value: Any) -> str:
    """A hyperparameter's value: three significant digits where it is a fraction."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return MISSING if value is None else str(value)


def configuration(params: dict[str, Any]) -> str:
    """Hyperparameters on one line, in the order they were chosen."""
    return ", ".join(f"{key} = {parameter(value)}" for key, value in params.items())


def plural(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
