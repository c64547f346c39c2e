"""What a sweep is: the sections of its file, checked by pydantic, its arms, and what may change while it runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator

from aiqn_core.code import Code
from aiqn_core.config import TrainConfig, of_vectors, settled
from aiqn_core.settings import Count, Expected
from orchestrator.clusters import Cluster
from orchestrator.rungs import evaluations_at
from orchestrator.runs import SWEEP_NAME
from orchestrator.section import Section
from orchestrator.space import (
    Space,
    apply,
    merge,
)
from orchestrator.stores import EXPECTED, is_known

CODE_HASH = "code.hash"  # the key of an arm that changes where its code is edited

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Objective(Section):
    """The metric that decides which trial is better; its last value counts. Left out: the distance to the data.

    Which way is better comes with the metric (`orchestrator.objectives`); a direction that says otherwise is refused.
    """

    metric: str = "fd_lite0"
    """Its name, as evaluations record it."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Which way is better: comes with the metric, and can be left out."""


class Search(Section):
    """How configurations are found: `trials` for every arm, since equal budgets are the point."""

    trials: Count = 20
    """Configurations of every arm."""
    sampler: dict[str, Any] = Field(default_factory=lambda: {"name": "tpe"})
    """Who chooses the next configuration, with Optuna's own arguments."""
    pruner: dict[str, Any] = Field(default_factory=lambda: {"name": "none"})
    """What stops a trial early, with its own arguments."""
    min_arrivals: Count | None = None
    """No trial is stopped on the evidence of fewer trials at its step (counting itself).

    None: as many as one of them goes on from in a successive halving, else 4.
    """
    objectives: Annotated[tuple[Objective, ...], Field(strict=False, alias="objective")] = (Objective(),)
    seed: Seed = 0
    """Of the sampler and of all trials."""
    same_failures: Count | None = 5
    """The first trials of a start that may all fail with one exception before it stops."""
    enqueue: dict[str, Annotated[tuple[dict[str, Any], ...], Field(strict=False)]] | None = None
    """Arm -> configurations to train first."""
    earlier: Annotated[str | None, Field(alias="from")] = None
    """The run folder whose trials the sampler knows already."""

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objectives", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]

    @field_validator("objectives")
    @classmethod
    def _differ(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not value or len({objective.metric for objective in value}) < len(value):
            raise Expected("one objective, or several whose metrics differ")
        return value

    @field_serializer("objectives")
    def _alone(self, value: tuple[Objective, ...]) -> Any:
        written = [objective.model_dump() for objective in value]
        return written if len(written) > 1 else written[0]

    @property
    def objective(self) -> Objective:
        """The first, which decides between trials of which none is better in everything."""
        return self.objectives[0]


class Final(Section):
    """The `top` configurations of each arm, trained again with each of the `seeds`, longer and measured better."""

    top: Count = 1
    """How many configurations of each arm."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0, 1, 2)
    """With which each of them is trained."""
    steps: Count | None = None
    """None: those of the arm."""
    evaluate: dict[str, Any] = Field(default_factory=dict)
    """Keys of `evaluate` that differ in the finals."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise Expected("seeds that differ")
        return value


class Resources(Section):
    """What one trial gets, and how often it is tried again after an infrastructure failure."""

    cpu: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of each trial."""
    gpu: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each trial: 0, a fraction, or a whole number."""
    workers: Count = 1
    """Processes that train one trial together, each with this cpu and gpu."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial is tried again after a failure that is not its own."""
    silent_minutes: Annotated[float, Field(gt=0)] | None = 120.0
    """A trial that records nothing for so long hangs: its process is ended, and it is tried again."""

    @field_validator("cpu", "gpu")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):  # Ray refuses these only when the first trial starts
            raise Expected("a fraction up to 1, or a whole number")
        return value

    @field_validator("workers")
    @classmethod
    def _whole_gpus(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("gpu", 0) not in (0, 1):  # NCCL refuses two workers on one GPU
            raise Expected(f"1, as gpu is {info.data['gpu']:g}; several workers take gpu: 0 or gpu: 1 each")
        return value


class Budget(Section):
    """Limits of the whole sweep; None is no limit."""

    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU-hours of all trials together."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of wall clock."""


class Tracking(Section):
    """Where MLflow keeps its mirror; None is $MLFLOW_TRACKING_URI, or else a SQLite file in the run folder."""

    uri: str | None = None
    """MLflow's store; left out, the environment's or a file in the run folder."""

    @field_validator("uri")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and not is_known(value):
            raise Expected(EXPECTED)
        return value


class OwnSections(Section):
    """All of a sweep file but its arms and the defaults of their trainings."""

    name: str
    search: Search = Search()
    final: Final | None = None
    """The best configurations again, longer and with several seeds."""
    resources: Resources = Resources()
    budget: Budget = Budget()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()
    notify: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """A command, word for word, that is run once when the sweep has ended or stopped: see the README."""

    @field_validator("name")
    @classmethod
    def _never_a_path(cls, value: str) -> str:
        if not SWEEP_NAME.fullmatch(value) or len(value) > 100:
            raise Expected("up to 100 letters, digits, '_', '.' and '-', the first a letter or digit")
        return value


@dataclass(frozen=True)
class Arm:
    """A method: the configuration all its trials share (complete, defaults filled in) and what may vary."""

    name: str
    base: dict[str, Any]
    space: Space


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been checked: every trial it can ask for has a valid configuration."""

    path: Path
    text: str  # verbatim
    name: str
    question: str
    arms: dict[str, Arm]
    search: Search
    final: Final | None
    resources: Resources
    budget: Budget
    tracking: Tracking
    cluster: Cluster
    notify: tuple[str, ...] = ()
    code: Code | None = None  # somebody's own, imported

    def config(self, arm: str, params: Mapping[str, Any], seed: int) -> TrainConfig:
        """The configuration of a search trial with the chosen `params` (dotted path -> value), scored at every rung."""
        config = TrainConfig.from_dict({**apply(self.arms[arm].base, params), "seed": seed})
        settings = config.evaluate
        at = evaluations_at(self.search.pruner, settings.every, config.train.steps, settings.at)
        return replace(config, evaluate=settings.changed(at=None if at is None else tuple(at)))

    def final_config(self, arm: str, params: Mapping[str, Any], seed: int) -> TrainConfig:
        """The configuration of a final: the same, with the steps and the evaluation of `final`."""
        return TrainConfig.from_dict({**with_final(apply(self.arms[arm].base, params), self.final), "seed": seed})

    def to_dict(self) -> dict[str, Any]:
        """The resolved sweep as plain JSON, defaults filled in."""
        arms = {arm.name: {**arm.base, "space": arm.space.to_dict()} for arm in self.arms.values()}
        sections = ("search", "final", "resources", "budget", "tracking", "cluster")
        own = {
            key: section and section.model_dump(by_alias=True) for key in sections for section in [getattr(self, key)]
        }
        return json.loads(json.dumps({"name": self.name, "arms": arms, **own}))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys (of two `Sweep.to_dict`) whose change would alter the meaning of trials that have finished.

    More trials, arms, finals, and seeds or steps of the finals only add. Resources, budget, tracking and cluster are
    free.
    """
    changed = [key for key in ("name",) if old[key] != new[key]]
    changed += _search_differences(old["search"], new["search"])
    for name, arm in old["arms"].items():
        if name not in new["arms"]:
            changed.append(f"arms.{name}")
        else:
            changed += [f"arms.{name}.{key}" for key in _arm_changes(arm, new["arms"][name])]
    return sorted(changed + _final_differences(old, new))


def _arm_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of an arm that differ; edited code is one of them, by which the settings of before are read too."""
    before, after = old.get("code"), new.get("code")
    if before and after and before["name"] == after["name"] and before != after:
        return [CODE_HASH, *_changed({**old, "code": after}, new)]
    return _changed(old, new)


def _search_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changed = [
        key for key in _changed(old, new) if key not in ("trials", "same_failures") and not key.startswith("enqueue.")
    ]
    before, after = old.get("enqueue") or {}, new.get("enqueue") or {}
    changed += [f"enqueue.{arm}" for arm, known in before.items() if after.get(arm, [])[: len(known)] != known]
    if new["trials"] < old["trials"]:
        changed.append("trials")
    return [f"search.{key}" for key in changed]


def _final_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if old["final"] is None:
        return []
    if new["final"] is None:
        return ["final"]
    before, after = old["final"], new["final"]
    steps = [arm["train"]["steps"] for arm in old["arms"].values()]  # where `final` gives none
    fewer = {
        "final.top": after["top"] < before["top"],
        "final.seeds": after["seeds"][: len(before["seeds"])] != before["seeds"],
        "final.steps": before["steps"] != after["steps"]
        and (after["steps"] or min(steps)) < (before["steps"] or max(steps)),
    }
    changed = [f"final.evaluate.{key}" for key in _changed(before["evaluate"], after["evaluate"])]
    return [key for key, is_fewer in fewer.items() if is_fewer] + changed


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = settled(old), settled(new)
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


def with_final(mapping: Mapping[str, Any], final: Final | None) -> dict[str, Any]:
    """The configuration of a training as `final` changes it; finals on images are extrapolated to infinite samples."""
    if final is None:
        return dict(mapping)
    steps = {} if final.steps is None else {"steps": final.steps}
    extrapolate = {} if of_vectors(mapping) else {"extrapolate": True}
    cheap = {"rungs": None} if mapping["evaluate"].get("rungs") else {}  # of rungs, which finals have none of
    return merge(mapping, {"train": steps, "evaluate": {**cheap, **extrapolate, **final.evaluate}})
