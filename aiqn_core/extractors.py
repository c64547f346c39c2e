"""The extractors of features that come with this package, and what their scores are called. No torch.

Somebody's own extractor (`evaluate.features: own.Edges`) needs no entry here: it is a class with the same face.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiqn_core.method import lazily


class ScoreNames(NamedTuple):
    """What the scores with one feature extractor are called; `score` is followed by _mean and _std."""

    distance: str
    score: str
    kernel: str
    coverage: str


@dataclass(frozen=True)
class Network:
    """What is known of an extractor before its class is needed."""

    side: int  # pixels of a side that it sees
    load: Callable[[int, str | None], Any]  # the extractor for a side, and the file of its weights where one is named
    any_side: bool = True
    named_file: bool = False  # whether its weights are a file of the user's (`evaluate.inception`), or come with us
    names: ScoreNames | None = None  # None: those that every extractor has


EXTRACTORS = {
    "lite0": Network(128, lambda side, _: lazily("aiqn_core.features", "Lite0")()(side)),
    # FID, IS and KID are what only the Inception network of those papers gives.
    "inception": Network(
        299,
        lambda _, file: lazily("aiqn_core.inception", "Inception")()(file),
        any_side=False,
        named_file=True,
        names=ScoreNames("fid", "is", "kid", "coverage_inception"),
    ),
}
USUAL = "lite0"


def score_names(features: str) -> ScoreNames:
    """What the scores with an extractor are called, which has this name."""
    known = EXTRACTORS[features].names if features in EXTRACTORS else None
    return known or ScoreNames(f"fd_{features}", f"is_{features}", f"kd_{features}", f"coverage_{features}")
