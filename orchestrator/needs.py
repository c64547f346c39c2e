"""What trials need of a machine besides code, data and a run folder: cache, temporary files, weights, disk space."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from aiqn_core.command import program_of, program_problem
from aiqn_core.config import EvaluateConfig, TrainConfig
from aiqn_core.extractors import EXTRACTORS
from aiqn_core.settings import parse
from orchestrator.calibration import kinds
from orchestrator.plan import size
from orchestrator.sections import Sweep, with_final

PLENTY = 32e9  # bytes: with so much free space nobody asks how large the checkpoints are, for that needs torch
RECORDS = 1e6  # bytes of a trial besides its checkpoints: measurements, log, pictures, its part of the journal


def needs(folder: Path, sweep: Sweep, slots: int) -> dict[str, Any]:
    """What a machine is asked on which `slots` trials of the sweep run at once, as plain values.

    `folder` is the run folder. "bytes" are those that one trial needs there, None where there is plenty of space.
    """
    configs = [config for arm in sweep.arms.values() for config in kinds(arm)]
    scored = [config.evaluate for config in configs]
    if sweep.final is not None:
        finals = [with_final(config.to_dict(), sweep.final) for config in configs]
        scored += [parse(EvaluateConfig, final["evaluate"]) for final in finals]
    features = {(each.features, each.inception): None for each in scored}
    return {
        "folder": str(folder),
        "features": [list(each) for each in features if each[0]],  # vectors are scored without
        "slots": slots,
        "programs": _programs(sweep),
        "bytes": None if free_bytes(folder) >= PLENTY else trial_bytes(configs),
    }


def _programs(sweep: Sweep) -> list[str]:
    """The programs of commands that a machine has to have: those beside the sweep file are in the run folder."""
    commands = [arm.base["command"] for arm in sweep.arms.values() if "command" in arm.base]
    programs = [program_of(command, sweep.path.parent) for command in commands]
    return list(dict.fromkeys(program for program in programs if isinstance(program, str)))


def lacks(asked: Mapping[str, Any]) -> Iterator[str]:
    """What of `needs` this machine lacks, each a sentence with its remedy; nothing where no trial runs on it."""
    if asked["slots"]:
        programs = filter(None, map(program_problem, asked["programs"]))
        yield from chain(_temporary(), _cache(asked), _weights(asked), programs, _space(asked))


def trial_bytes(configs: Sequence[TrainConfig]) -> float:
    """About how many bytes a trial takes on disk while it runs, that of the largest of some configurations."""
    from aiqn_core.sizes import checkpoint_bytes  # torch

    return max(checkpoint_bytes(config) for config in configs) + RECORDS


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def _temporary() -> Iterator[str]:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(65536))
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written, with space"
        yield f"it cannot write temporary files ({error.strerror or error}): {advice}"


def _cache(asked: Mapping[str, Any]) -> Iterator[str]:
    from aiqn_core.cache import CacheError, check_cache

    try:
        if asked["features"]:
            check_cache()
    except CacheError as error:
        yield str(error)


def _weights(asked: Mapping[str, Any]) -> Iterator[str]:
    from aiqn_core.weights import inception_problems, lite0_problem

    for features, inception in asked["features"]:
        known = EXTRACTORS.get(features)
        if known is not None and not known.named_file and (problem := lite0_problem()):
            yield problem
        for found in inception_problems(EvaluateConfig(features=features, inception=inception)):
            yield str(found)


def _space(asked: Mapping[str, Any]) -> Iterator[str]:
    folder, slots = Path(asked["folder"]), asked["slots"]
    free, need = free_bytes(folder), slots * (asked["bytes"] or 0)
    if free < need:
        trials = f"{slots} trials at once take" if slots > 1 else "a trial take"
        yield (
            f"it has {size(free)} free in {folder}, but checkpoints of {trials} about {size(need)}: make room, keep"
            " --runs on a larger disk, or let fewer run at once (resources.cpu, resources.gpu)"
        )
