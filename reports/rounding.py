"""Numbers as people read them: rounding never flatters."""

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

from reports.results import Summary

MISSING = "—"
NOTHING = 1e-12  # below it a score is what floating point leaves of 0
LONGEST = 1e15  # from here on all digits before the point say nothing more than the power of ten


def rounded(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits; digits before the point are all kept."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) < NOTHING:
        return "0"
    if not 1e-4 <= abs(value) < LONGEST:
        return f"{value:.{digits - 1}e}"
    number = Decimal(repr(float(value)))
    return f"{_at(number, min(0, number.adjusted() - digits + 1) if number else 0):,f}"


def plus_minus(summary: Summary | None) -> str:
    """Mean ± s.d.: the s.d. has two significant digits and is rounded up, the mean ends at the same place."""
    if summary is None:
        return MISSING
    if summary.deviation is None or summary.deviation <= 1e-12 * abs(summary.mean):  # floating point, not a spread
        return rounded(summary.mean) + ("" if summary.deviation is None else " ± 0")
    if max(abs(summary.mean), summary.deviation) >= LONGEST:
        return f"{summary.mean:.3e} ± {summary.deviation:.1e}"
    deviation = Decimal(repr(summary.deviation))
    place = min(0, deviation.adjusted() - 1)
    return f"{_at(Decimal(repr(float(summary.mean))), place):,f} ± {_at(deviation, place, ROUND_CEILING):,f}"


class Measured(NamedTuple):
    """A value and its interval as text, with the same decimals."""

    value: str
    interval: str


def with_interval(value: float, low: float, high: float) -> Measured:
    """Half the width of the interval has two significant digits; an end that is not 0 is never rounded to 0."""
    half = (high - low) / 2
    if not half > 0 or max(map(abs, (value, low, high))) >= LONGEST or half < 1e-300:
        return Measured(rounded(value), f"{rounded(low)} to {rounded(high)}")
    place = min(0, Decimal(repr(half)).adjusted() - 1)
    numbers = [Decimal(repr(float(number))) for number in (value, low, high)]
    while any(number and not _at(number, place) for number in numbers[1:]):
        place -= 1
    shown, first, last = (f"{_at(number, place) + 0:,f}" for number in numbers)
    return Measured(shown, f"{first} to {last}")


def p_value(p: float, level: float) -> str:
    """Two significant digits, or as many as show on which side of the level it lies."""
    digits = next(digits for digits in range(2, 18) if (float(f"{p:.{digits}g}") < level) == (p < level))
    return f"{p:.{digits}g}"


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


def listed(words: Sequence[str]) -> str:
    """Words in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def plural(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
