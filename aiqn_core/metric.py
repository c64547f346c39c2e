"""What is known of each measured number: its name, which way is better, its unit, and whether arms may share it.

A number is compared between two arms only where both report it in the same unit. Standard library only.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Direction = Literal["minimize", "maximize"]
RUNG = "rung_"  # begins the name of a score of fewer samples, by which trials are judged before their end


@dataclass(frozen=True)
class Metric:
    """One measured quantity, under the name it is recorded with.

    `unit` says what the number counts, with every setting that changes its meaning; None means that it has no unit
    that could be told, and two arms are never compared by it. `across_arms` is False for what describes one arm alone.
    `low` and `high` are the ends of its range. `beside` marks what every table shows beside the objectives, `objection`
    what is named only where it contradicts them. `up_to_real`: beyond what real data score, more is not better.
    """

    name: str
    direction: Direction
    unit: str | None = None
    across_arms: bool = True
    low: float = -math.inf
    high: float = math.inf
    beside: bool = False
    objection: bool = False
    up_to_real: bool = False

    def facts(self) -> dict[str, Any]:
        """The facts as plain JSON, in which an open end of the range is null; `metric_of` reads them back."""
        ends = {key: value if math.isfinite(value) else None for key, value in (("low", self.low), ("high", self.high))}
        return asdict(self) | ends


def metric_of(facts: dict[str, Any]) -> Metric:
    """The metric whose `facts` were recorded; keys of a later version are ignored."""
    known = {key: value for key, value in facts.items() if key in Metric.__dataclass_fields__ and value is not None}
    return Metric(**known)


def judged_by(record: Mapping[str, Any], metric: str) -> Any:
    """What an evaluation says of a metric to judge the trial by: under its own name, or that of rungs; None without."""
    value = record.get(metric)
    return record.get(RUNG + metric) if value is None else value


def image_metrics(distance: str, score: str, kernel: str, coverage: str) -> tuple[Metric, ...]:
    """What every evaluation of images reports, the distance first; `score` is without its ending."""
    return (
        Metric(distance, "minimize", "squared feature distance", low=0, beside=True),
        Metric(f"{score}_mean", "maximize", "exp of nats", low=1, beside=True, up_to_real=True),
        Metric(kernel, "minimize", "squared kernel discrepancy", objection=True),
        Metric(coverage, "maximize", "share of real images", low=0, high=1, beside=True),
    )


def vector_metrics() -> tuple[Metric, ...]:
    """What every evaluation of vectors reports, the energy distance first."""
    return (
        Metric("energy_distance", "minimize", "units of the vectors", beside=True),  # unbiased: can be below 0
        Metric("wasserstein1_mean", "minimize", "units of the vectors", low=0),
    )


def loss_metric(unit: str | None) -> Metric:
    """The training loss, whose unit is that of the method's own objective."""
    return Metric("loss", "minimize", unit)


def shared(found: list[Metric]) -> Metric:
    """One metric as several configurations report it: without a unit where theirs differ."""
    first = found[0]
    if all(metric.unit == first.unit for metric in found):
        return first
    return replace(first, unit=None)
