"""The data of a run is its data: its checksums are kept in sweep.json, and a start with other images is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import shapes
from orchestrator.runs import RunFolder, RunFolderError, TrialFolder, read_json
from orchestrator.sections import Sweep


def checksum_of(section: Mapping[str, Any]) -> str | None:
    """Name and checksum of the prepared data that a `data` section names; None where it is bundled or not here."""
    from aiqn_core.config import BUNDLED_DATA  # NumPy: only where a run starts
    from aiqn_core.prepared import PreparedError, prepared_folder, read_about

    if section["name"] in BUNDLED_DATA:
        return None
    try:
        about = read_about(prepared_folder(section["name"], section.get("path")))
    except PreparedError:
        return None
    return f"{section['name']} {about['checksum']}"


def run_data(run: RunFolder, sweep: Sweep, before: Mapping[str, Any] | None) -> dict[str, str]:
    """The data of the arms, for sweep.json; raises RunFolderError where they are not those the run began with.

    A run folder written before the checksums were kept there has them in its trials' config.json.
    """
    known: dict[str, str] = dict((before or {}).get("data") or {})
    for section in (arm.base["data"] for arm in sweep.arms.values()):
        if (now := checksum_of(section)) is not None:
            recorded = known.get(_key(section)) or _of_trials(run.path / "trials", section)
            refuse_other(run.path, recorded, now)
            known[_key(section)] = now
    return known


def check_trial_data(run: RunFolder, folder: TrialFolder, section: Mapping[str, Any]) -> None:
    """Raises RunFolderError where the data on this machine are not those of the run, or of the trial's beginning."""
    if (now := checksum_of(section)) is not None:
        sweep = read_json(run.sweep_json, shapes.SWEEP) or {}
        refuse_other(run.path, (sweep.get("data") or {}).get(_key(section)), now)
        refuse_other(folder.path, _recorded(folder.read_config()), now)


def refuse_other(path: Path, recorded: str | None, now: str) -> None:
    """Raises RunFolderError where the data that a run began with are known, and others than those of now."""
    if recorded is not None and recorded != now:
        raise RunFolderError(
            f"{path} began with the data {recorded} (name and checksum), but now there is {now}: "
            "its trials would mix two data sets.\nPrepare the earlier data again, or give this run another name."
        )


def _key(section: Mapping[str, Any]) -> str:
    """A data section in one line: a search may ask for several."""
    path = section.get("path")
    return section["name"] if path is None else f"{section['name']} in {path}"


def _of_trials(trials: Path, section: Mapping[str, Any]) -> str | None:
    for folder in sorted(trials.glob("*")):
        content = TrialFolder(folder).read_config() or {}
        data = (content.get("config") or {}).get("data")
        if data and _key(data) == _key(section) and (recorded := _recorded(content)):
            return recorded
    return None


def _recorded(content: Mapping[str, Any] | None) -> str | None:
    """The data in the protocol of a trial's config.json."""
    protocol = ((content or {}).get("provenance") or {}).get("protocol") or {}
    return protocol.get("data")
