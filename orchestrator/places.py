"""The folders and files that every trial needs on its machine: an error of one of them is no trial's fault."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def places(run: Path, config: Mapping[str, Any]) -> list[Path]:
    """Run folder, temporary folder, cache, data and weights of a trial with this configuration, on this machine.

    Those that are reached by links are given under both names, for an error may name either.
    """
    # NumPy: only where a trial runs, or has failed
    from aiqn_core import weights
    from aiqn_core.cache import cache_folder
    from aiqn_core.prepared import prepared_folder

    found = [run]
    with suppress(OSError):  # none can be written
        found.append(Path(tempfile.gettempdir()))
    with suppress(OSError):
        found.append(cache_folder())
    with suppress(RuntimeError):  # the user has no home
        found.append(prepared_folder(config["data"]["name"], config["data"].get("path")))
    if named := (config.get("evaluate") or {}).get("inception") or os.environ.get(weights.VARIABLE):
        found.append(Path(named))
    return [name for place in found for name in dict.fromkeys((place.absolute(), Path(os.path.realpath(place))))]
