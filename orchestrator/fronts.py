"""Pareto fronts: which trials no other trial beats in every objective."""

import bisect
import math

Costs = dict[int, tuple[float, ...]]  # trial number -> its values, turned so that less is better


def fronts(costs: Costs) -> dict[int, int]:
    """The Pareto front of each trial: 0 where no trial beats it, 1 where only those of front 0 do, ...

    In ascending order nobody beats an earlier one, and whom a front beats all fronts before it beat too: the front of
    each is found by bisection (efficient non-dominated sort, Zhang et al. 2015).
    """
    members: list[list[tuple[float, ...]]] = []  # of each front
    found: dict[int, int] = {}
    comparable = [number for number, own in costs.items() if not any(map(math.isnan, own))]
    for number in sorted(comparable, key=costs.__getitem__):
        own = costs[number]
        front = bisect.bisect_left(members, True, key=lambda others: not beaten(own, others))
        if front == len(members):
            members.append([])
        members[front].append(own)
        found[number] = front
    return dict(sorted(((number, found.get(number, 0)) for number in costs), key=lambda item: item[1]))


def beaten(own: tuple[float, ...], others: list[tuple[float, ...]]) -> bool:
    """Whether any of the others beats it; the last ones, which are the nearest to it, are asked first."""
    return any(beats(other, own) for other in reversed(others))


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is as good in everything, and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
