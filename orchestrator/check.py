"""`aiqn check`: a few steps of each arm show whether its method keeps the promises that a sweep relies on."""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from orchestrator.sections import Arm, Sweep
from orchestrator.seeds import trial_seed
from orchestrator.space import Choice, Number, Space, covering, variations

COMMAND = "its command was started, stopped and started again: its reports are in order, its samples in shape"


class Checked(NamedTuple):
    """An arm, and what is wrong with it, one sentence each."""

    arm: str
    problems: list[str]
    shown: str = "resumable, reproducible, in shape"  # where there are none


def check_arms(sweep: Sweep) -> Iterator[Checked]:
    """Each arm in configurations that make every choice of its space, trained for a few steps on this machine.

    An arm that is a command is started in its first configuration alone, for it takes what time it likes.
    """
    from aiqn_core.checking import command_problems  # torch takes seconds to import

    for arm in sweep.arms.values():
        if "command" in arm.base:
            config = sweep.config(arm.name, _first(arm), _seed(sweep, arm))
            yield Checked(arm.name, command_problems(config, sweep.path.parent), COMMAND)
        else:
            yield Checked(arm.name, list(_problems(sweep, arm)))


def _first(arm: Arm) -> dict[str, Any]:
    """The first configuration of an arm, all numbers at their lowest."""
    return next(variations(arm.space, Number.ends))


def _seed(sweep: Sweep, arm: Arm) -> int:
    return trial_seed(sweep.search.seed, arm.name, 0)


def _problems(sweep: Sweep, arm: Arm) -> Iterator[str]:
    """What is wrong with an arm; a problem that only some of its choices have is told with the first of them."""
    from aiqn_core.checking import method_problems  # torch takes seconds to import

    tried = configurations(sweep, arm)
    found: dict[str, list[dict[str, Any]]] = {}
    for i, params in enumerate(tried):
        config = sweep.config(arm.name, params, _seed(sweep, arm))
        for told in method_problems(config, may_diverge=i > 0):  # at random a rate can be too high
            found.setdefault(told, []).append(params)
    for told, where in found.items():
        choices = _choices(arm.space, where[0])
        yield told if len(where) == len(tried) or not choices else f"{told} (where {choices})"


def configurations(sweep: Sweep, arm: Arm) -> list[dict[str, Any]]:
    """The first configuration of an arm with all numbers at their lowest, then others until each choice was made."""
    first = _first(arm)
    others = covering(arm.space, Random(_seed(sweep, arm)))  # noqa: S311 (no secret)
    seen = set(_made(arm.space, first))
    tried = [first]
    for params in others:
        if not seen.issuperset(made := _made(arm.space, params)):
            seen.update(made)
            tried.append(params)
    if len(tried) == 1 and any(isinstance(one, Number) for one in arm.space.dimensions):
        tried.append(others[0])
    return tried


def _made(space: Space, params: dict[str, Any]) -> list[str]:
    """The choices that a configuration makes, in words."""
    return [
        f"{dimension.path}: {params[dimension.path]}"
        for dimension in space.active(params)
        if isinstance(dimension, Choice)
    ]


def _choices(space: Space, params: dict[str, Any]) -> str:
    return ", ".join(_made(space, params))
