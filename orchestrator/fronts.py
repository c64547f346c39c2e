"""Pareto fronts: which trials no other trial beats in every objective."""

Costs = dict[int, tuple[float, ...]]  # trial number -> its values, turned so that less is better


def fronts(costs: Costs) -> dict[int, int]:
    """The Pareto front of each trial: 0 where no trial beats it, 1 where only those of front 0 do, ..."""
    left, found, front = dict(costs), dict[int, int](), 0
    while left:
        best = [number for number, own in left.items() if not any(beats(other, own) for other in left.values())]
        found |= dict.fromkeys(best, front)
        left = {number: cost for number, cost in left.items() if number not in found}
        front += 1
    return found


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is as good in everything, and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
