"""`aiqn check`: a few steps of each arm show whether its method keeps the promises that a sweep relies on."""

from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.sections import Sweep, trial_seed
from orchestrator.space import Number, variations

COMMAND = "its command was started, stopped and started again: its reports are in order, its samples in shape"


class Checked(NamedTuple):
    """An arm, and what is wrong with it, one sentence each."""

    arm: str
    problems: list[str]
    shown: str = "resumable, reproducible, in shape"  # where there are none


def check_arms(sweep: Sweep) -> Iterator[Checked]:
    """Each arm with the first configuration of its space, trained for a few steps on this machine."""
    from aiqn_core.checking import command_problems, method_problems  # torch takes seconds to import

    for name, arm in sweep.arms.items():
        params = next(variations(arm.space, Number.ends))
        config = sweep.config(name, params, trial_seed(sweep.search.seed, name, 0))
        if config.command is None:
            yield Checked(name, method_problems(config))
        else:
            yield Checked(name, command_problems(config, sweep.path.parent), COMMAND)
