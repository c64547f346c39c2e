"""Settings of one training, checked once where they enter: sections by name with settings of their own. No torch."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, Field

from aiqn_core import code as codes
from aiqn_core.code import Code
from aiqn_core.command import KIND, Command
from aiqn_core.extractors import EXTRACTORS, USUAL, score_names
from aiqn_core.method import Kind
from aiqn_core.metric import Metric, image_metrics, loss_metric, vector_metrics
from aiqn_core.models.settings import KAPPA as KAPPA
from aiqn_core.models.settings import KINDS, QuantileLoss
from aiqn_core.optimizer_settings import OPTIMIZERS
from aiqn_core.schedules import SCHEDULES
from aiqn_core.settings import ConfigError as ConfigError
from aiqn_core.settings import Count, Fraction, Positive, Settings, fields, hint_of, one_line, parse, plain, written
from aiqn_core.settings import Problem as Problem
from aiqn_core.settings import dotted as dotted
from aiqn_core.settings import join as join
from aiqn_core.settings import nearest as nearest
from aiqn_core.settings import one_of as one_of
from aiqn_core.settings import shown as shown

VECTOR_DATA = ("gaussian2d", "banana2d", "mixture2d")  # all other data of ours are images
BUNDLED_DATA = ("digits", "patches", *VECTOR_DATA)
MODELS = {kind.name: kind for kind in KINDS}
ENTRY_POINTS = "aiqn.methods"


class Stored(Settings):
    """Data that are bundled, or prepared by `aiqn data prepare`."""

    path: str | None = None
    """The folder that prepared data were written to; left out, the usual one."""


class Found(NamedTuple):
    """What a name stands for: the class of its settings, and what is built from them."""

    settings: type[BaseModel]
    thing: Any


@dataclass(frozen=True)
class Chosen:
    """One thing by its name, with the settings that belong to it."""

    name: str
    settings: Any
    thing: Any = field(compare=False, repr=False)
    role: ClassVar[str]
    usual: ClassVar[str]  # the name where none is given

    def __init__(self, name: str | None = None, *, code: Code | None = None, **settings: Any) -> None:
        """Raises ConfigError for a name that is unknown, and for every setting that does not fit it."""
        problems: list[Problem] = []
        named = {} if name is None else {"name": name}
        values = _choose(type(self), {**named, **settings}, "", code, problems)
        if problems or values is None:
            raise ConfigError(problems)
        for key, value in zip(("name", "settings", "thing"), values, strict=True):
            object.__setattr__(self, key, value)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or key in ("settings", "thing", "name"):  # while it is copied
            raise AttributeError(key)
        return getattr(self.settings, key)

    def to_dict(self) -> dict[str, Any]:
        """Name and settings as plain JSON values."""
        return {"name": self.name, **written(self.settings)}

    @classmethod
    def ours(cls) -> Mapping[str, Found]:
        """The names that come with this package."""
        raise NotImplementedError

    @classmethod
    def found(cls, name: object, code: Code | None) -> Found | None:
        """What a name stands for, if anything."""
        if not isinstance(name, str):
            return None
        own = cls.ours().get(name)
        if own is None and code is not None:
            own_class = code.fitting(cls.role).get(name)
            return None if own_class is None else cls.of_class(name, own_class)
        return own

    @classmethod
    def of_class(cls, name: str, kind: Any) -> Found:
        """What somebody's own class stands for."""
        return Found(kind.Settings, kind)

    @classmethod
    def all(cls, code: Code | None) -> dict[str, Found]:
        """Everything that can be named."""
        own = {} if code is None else code.fitting(cls.role)
        return {**cls.ours(), **{name: cls.of_class(name, kind) for name, kind in own.items()}}


ChosenT = TypeVar("ChosenT", bound=Chosen)


class DataConfig(Chosen):
    """Which images or vectors: bundled, prepared by `aiqn data prepare` (`path` is their folder), or somebody's own."""

    role, usual = "data", "digits"

    def __init__(self, name: str | None = None, path: str | None = None, **settings: Any) -> None:
        given: dict[str, Any] = settings if path is None else {"path": path, **settings}
        super().__init__(name, **given)

    @classmethod
    def ours(cls) -> Mapping[str, Found]:
        """The bundled data; every other word is a name of prepared data."""
        return {name: Found(Stored, None) for name in BUNDLED_DATA}

    @classmethod
    def found(cls, name: object, code: Code | None) -> Found | None:
        """Also of prepared data, which are looked for when they are loaded."""
        mine = code is not None and isinstance(name, str) and name.startswith(f"{code.name}.")
        known = super().found(name, code)
        return Found(Stored, None) if known is None and isinstance(name, str) and not mine else known

    @property
    def of_vectors(self) -> bool:
        """Whether the data are vectors; otherwise they are images."""
        return self.name in VECTOR_DATA if self.thing is None else self.thing.data == "vectors"

    @property
    def is_prepared(self) -> bool:
        """Whether they are files that `aiqn data prepare` wrote."""
        return self.thing is None and self.name not in BUNDLED_DATA


def of_vectors(mapping: Mapping[str, Any]) -> bool:
    """Whether the data of a recorded configuration are vectors, as far as its code is imported."""
    recorded, name = mapping.get("code"), mapping["data"]["name"]
    code = codes.loaded(recorded.get("hash")) if isinstance(recorded, Mapping) else None
    found = DataConfig.found(name, code)
    return name in VECTOR_DATA if found is None or found.thing is None else found.thing.data == "vectors"


class ModelConfig(Chosen):
    """A method by name with its own settings; those of another one are refused."""

    role, usual = "model", "pixeliqn"

    @classmethod
    def ours(cls) -> Mapping[str, Found]:
        """Our six, the table in `aiqn_core.models.settings`."""
        return {name: Found(kind.settings, kind) for name, kind in MODELS.items()}

    @classmethod
    def found(cls, name: object, code: Code | None) -> Found | None:
        """Also those of installed packages."""
        known = super().found(name, code)
        return _installed(name) if known is None and isinstance(name, str) else known

    @classmethod
    def all(cls, code: Code | None) -> dict[str, Found]:
        """Also those of installed packages, behind ours."""
        return {**dict(_all_installed()), **super().all(code)}

    @classmethod
    def of_class(cls, name: str, kind: Any) -> Found:
        """What is known of somebody's class, gathered from it."""
        metrics: tuple[Metric, ...] = tuple(getattr(kind, "metrics", ()))
        unit = getattr(kind, "loss_unit", None)
        own = (loss_metric(unit), *metrics)
        own_loss, data = getattr(kind, "Loss", None), getattr(kind, "data", None)
        alone = getattr(kind, "one_worker", "")
        known = Kind(name, kind.Settings, lambda: kind, lambda *_: own, own_loss, data, alone)
        return Found(kind.Settings, known)

    @classmethod
    def preset(cls, size: str, *, name: str, **changes: Any) -> Self:
        """The paper's two sizes: 15 blocks of 128 planes ("small"), 20 blocks of 256 planes ("large").

        Parameters at 3 channels: small 12,267,904 (pixelcnn) and 11,495,299 (pixeliqn), large 57,474,816 and
        56,721,411. In tau_mode "paper", where tau enters both stacks of a block, 11,506,819 and 56,752,131.
        """
        sizes = {"small": {"layers": 15, "planes": 128}, "large": {"layers": 20, "planes": 256}}
        if size not in sizes:
            raise ConfigError([Problem("preset", one_of(size, sizes))])
        return cls(name, **{"kernel": 5, "skip_planes": 1024, **sizes[size], **changes})

    @property
    def kind(self) -> Kind:
        """What is known of the method."""
        kind: Kind = self.thing
        return kind

    @property
    def conditional(self) -> bool:
        """Whether the method is told the class of each image."""
        return getattr(self.settings, "conditional", False) is True


class OptimizerConfig(Chosen):
    """An optimiser by name with its own arguments; those of another optimiser are refused."""

    role, usual = "optimizer", "adam"

    @classmethod
    def ours(cls) -> Mapping[str, Found]:
        """Those of torch, and TensorFlow's RMSProp."""
        return {name: Found(kind, None) for name, kind in OPTIMIZERS.items()}


class ScheduleConfig(Chosen):
    """The learning rate over the steps: a schedule by name with its own settings."""

    role, usual = "schedule", "constant"

    @classmethod
    def ours(cls) -> Mapping[str, Found]:
        """Those of `aiqn_core.schedules`."""
        return {name: Found(kind, None) for name, kind in SCHEDULES.items()}

    @classmethod
    def of_class(cls, name: str, kind: Any) -> Found:
        """A schedule is its own settings."""
        return Found(kind, None)

    @property
    def follows_steps(self) -> bool:
        """Whether a longer training differs from its start; of a schedule that does not say so, it does."""
        return bool(getattr(self.settings, "follows_steps", True))


@functools.cache
def _installed(name: str) -> Found | None:
    """The method that an installed package has under a name: an entry point of the group `aiqn.methods`.

    Raises ConfigError for one that cannot be imported, or is none.
    """
    point = next((point for point in _entry_points() if point.name == name), None)
    if point is None:
        return None
    try:
        kind = point.load()
    except Exception as error:  # whatever somebody's package raises is one line
        told = f"saw {name!r}, but {point.value} cannot be imported: {one_line(error)}"
        raise ConfigError([Problem("model.name", told)]) from error
    if lacks := codes.lacking("model", kind):
        raise ConfigError([Problem("model.name", f"saw {name!r} of {point.value}, a class without {lacks}")])
    made = ModelConfig.of_class(name, kind)
    origin = "" if point.dist is None else str(point.dist.name)
    return Found(made.settings, replace(made.thing, distribution=origin))


@functools.cache
def _entry_points() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=ENTRY_POINTS))


def _all_installed() -> Iterator[tuple[str, Found]]:
    """Those that work: what is wrong with another is told where it is named."""
    for point in _entry_points():
        with suppress(ConfigError):
            if (found := _installed(point.name)) is not None:
                yield point.name, found


class LoopConfig(Settings):
    """The training loop: steps, images or vectors per step, averaging of the weights."""

    steps: Count = 1000
    """Optimiser steps."""
    batch_size: Count = 32
    """Images or vectors in each."""
    ema_decay: Fraction = 0.9999
    """Memory of the averaged weights, which are what samples are drawn with."""
    ema_warmup: bool = True
    """Whether that memory grows as (1 + t) / (10 + t) at first."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient; left out, no limit."""
    log_every: Count | None = None
    """Steps between two records of the loss; left out, about a hundred over the training."""


# Below this side the last map of the network is a single, nearly dead cell: scores measure next to nothing. At 32
# pixels 98 % of the features of Lite0 are 0, and photographs have an inception score of 1.1.
LEAST_SIDES = {"efficientnet-lite0": 64}


class EvaluateConfig(Settings):
    """When and how samples are scored. `features`, `size` and `splits` are of images."""

    every: Count = 1000
    """Steps between two evaluations."""
    at: tuple[Count, ...] | None = None
    """Further steps; a sweep adds those at which its pruner decides."""
    samples: Annotated[int, Field(ge=3)] = 512
    """How many are drawn."""
    rungs: dict[Literal["samples"], Annotated[int, Field(ge=3)]] | None = None
    """{samples: 200}: so many are drawn before the last step, for scores of their own (rung_fd_lite0)."""
    features: str | None = None
    """What sees the images: lite0, inception, or an extractor of your own code."""
    inception: str | None = None
    """The file of that network's weights; left out, the one that the environment names."""
    size: Annotated[int, Field(ge=LEAST_SIDES["efficientnet-lite0"])] | None = None
    """The side in pixels of what lite0 sees."""
    reference: Annotated[int, Field(ge=2)] = 10_000
    """How many real images (of the training set) or vectors (held out) samples are compared with."""
    splits: Count | None = None
    """Parts of the inception score."""
    extrapolate: bool | None = None
    """Adds the distance of infinitely many samples, of images; the finals of a sweep have it."""
    initial: bool = False
    """Also score the untrained model, at step 0."""
    keep_weights: bool = False
    """Keep the averaged weights of every evaluation, to watch images form."""
    also: tuple[str, ...] = ()
    """Further metrics, of your own code."""
    seed: int = 0
    """Of tau and labels: the same for all trials, so that rankings share their sampling noise."""


IMAGE_EVALUATION: dict[str, Any] = {"features": USUAL, "splits": 10, "extrapolate": False}
OF_IMAGES = (*IMAGE_EVALUATION, "size", "inception")


class NoLoss(Settings):
    """Of a method whose loss has no settings."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of one training; it knows which data, model and scores go together."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: Any = None  # None: as the model has it by default
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    seed: int = 0
    code: Code | None = None
    command: Command | None = None  # in place of a model, its loss, its optimiser and its schedule

    def __post_init__(self) -> None:
        if self.command is not None:
            object.__setattr__(self, "model", _made(ModelConfig, (KIND.name, self.command, KIND)))
        self._check_kind()
        loss = self.model.kind.loss or NoLoss
        if not isinstance(self.loss, loss):
            object.__setattr__(self, "loss", loss())
        if self.evaluate.splits is not None and self.evaluate.samples < self.evaluate.splits:
            message = f"saw {self.evaluate.splits}, expected at most evaluate.samples = {self.evaluate.samples}"
            raise ConfigError([Problem("evaluate.splits", message)])
        self._check_also()

    def _check_kind(self) -> None:
        """Refuse a model, or settings of the evaluation, that the data are not made for; complete those of images."""
        kinds = {False: "images", True: "vectors"}
        own = kinds[self.of_vectors]
        if self.model.kind.data not in (None, own):
            valid = [name for name, found in ModelConfig.all(self.code).items() if found.thing.data in (None, own)]
            message = (
                f"saw {self.model.name!r}, a model of {kinds[not self.of_vectors]}, but {self.data.name} is data of"
                f" {own}; valid: {', '.join(valid)}"
            )
            raise ConfigError([Problem("model.name", message)])
        if not self.of_vectors:
            self._complete_evaluation()
            return
        for key in OF_IMAGES:
            if (value := getattr(self.evaluate, key)) is not None:
                message = (
                    f"saw {shown(value)}, but {self.data.name} is data of vectors, scored without it; leave it out"
                )
                raise ConfigError([Problem(f"evaluate.{key}", message)])

    def _complete_evaluation(self) -> None:
        given = {key: value for key, value in dict(self.evaluate).items() if value is not None}
        features = given.get("features", USUAL)
        network = EXTRACTORS.get(features)
        if network is None and features not in ({} if self.code is None else self.code.fitting("features")):
            told = codes.unknown(features, "features", list(EXTRACTORS), self.code)
            raise ConfigError([Problem("evaluate.features", told)])
        if network is None and "size" in given:
            message = f"saw {given['size']}, but {features} takes images as they are; leave it out"
            raise ConfigError([Problem("evaluate.size", message)])
        side = None if network is None else network.side
        evaluate = EvaluateConfig(**{**IMAGE_EVALUATION, "size": side, **given})
        if network is not None and not network.any_side and evaluate.size != side:
            message = f"saw {evaluate.size}, but {features.capitalize()} sees {side} pixels a side; leave it out"
            raise ConfigError([Problem("evaluate.size", message)])
        if evaluate.inception is not None and not (network is not None and network.named_file):
            message = f"saw {shown(evaluate.inception)}, but the features are {evaluate.features}; leave it out"
            raise ConfigError([Problem("evaluate.inception", f"{message}, or set evaluate.features: inception")])
        object.__setattr__(self, "evaluate", evaluate)

    def _check_also(self) -> None:
        known = {} if self.code is None else self.code.fitting("metric")
        for i, name in enumerate(self.evaluate.also):
            if name not in known:
                raise ConfigError([Problem(f"evaluate.also[{i}]", codes.unknown(name, "metric", [], self.code))])

    @property
    def of_vectors(self) -> bool:
        """Whether the data are vectors; otherwise they are images."""
        return self.data.of_vectors

    @property
    def given_loss(self) -> Any:
        """The settings of the loss as the model is given them; None where its loss has none."""
        return None if isinstance(self.loss, NoLoss) else self.loss

    @property
    def features_name(self) -> str:
        """The ending of the metrics that are computed with the features of an evaluation of images."""
        features = self.evaluate.features or USUAL
        return features if features in EXTRACTORS or self.code is None else str(self.code.classes()[features].name)  # type: ignore[attr-defined]

    @property
    def also(self) -> tuple[Metric, ...]:
        """The facts of the further metrics, in the order of `evaluate.also`."""
        classes: dict[str, Any] = {} if self.code is None else dict(self.code.classes())
        return tuple(classes[name].metric for name in self.evaluate.also)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The facts of what an evaluation measures, the distance first; not of times, counts and ends of error bars."""
        common = vector_metrics() if self.of_vectors else image_metrics(*score_names(self.features_name))
        return (*common, *self.model.kind.metrics(self.model.settings, self.given_loss, common[0]), *self.also)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The configuration of a nested mapping; raises ConfigError with every unknown key and bad value."""
        if not isinstance(mapping, Mapping):
            raise ConfigError([Problem("", f"saw {shown(mapping)}, expected a mapping with keys among: {_KEYS}")])
        problems: list[Problem] = []
        code = _code_of(mapping, problems)
        values: dict[str, Any] = {"code": code}
        for key, value in mapping.items():
            if key in NAMED:
                found = _choose(NAMED[key], value, key, code, problems)
                values[key] = None if found is None else _made(NAMED[key], found)
            elif key in PLAIN:
                values[key] = _parsed(PLAIN[key], value, key, problems)
            elif key == "loss":
                values[key] = _loss(mapping, code, problems)
            elif key == "seed":
                values[key] = value
                if type(value) is not int:
                    problems.append(Problem(key, f"saw {shown(value)}, expected an integer"))
            elif key == "command":
                values[key] = _parsed(Command, value, key, problems)
            elif key != "code":
                problems.append(Problem(str(key), f"unknown key; {nearest(key, (*SECTIONS, 'seed'))}"))
        if "command" in mapping:
            problems += command_problems(mapping)
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of plain JSON values; `from_dict` gives the same configuration back."""
        sections: dict[str, Any] = {
            key: value.to_dict() if isinstance(value := getattr(self, key), Chosen) else written(value)
            for key in SECTIONS
        }
        code = {} if self.code is None else {"code": self.code.recorded()}
        if self.command is not None:
            sections = {key: sections[key] for key in BESIDE_COMMAND}
            sections |= {"train": {"steps": self.train.steps}, "command": written(self.command)}
        return {**sections, "seed": self.seed, **code}


NAMED: dict[str, type[Chosen]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
}
PLAIN: dict[str, type[Settings]] = {"train": LoopConfig, "evaluate": EvaluateConfig}
SECTIONS = ("data", "model", "loss", "optimizer", "schedule", "train", "evaluate")  # seeds are given to trials
_KEYS = ", ".join((*SECTIONS, "seed"))
BESIDE_COMMAND = ("data", "train", "evaluate")  # the others are the command's own affair


def command_problems(mapping: Mapping[str, Any], valid: Sequence[str] = (*BESIDE_COMMAND, "seed")) -> list[Problem]:
    """The sections, and keys of `train`, that mean nothing to a command."""
    found = []
    if "model" in mapping:
        found.append(Problem("model", "saw both model and command, expected one of them"))
    for key in ("loss", "optimizer", "schedule"):
        if key in mapping:
            message = f"a command has its own, given as words of it; valid beside a command: {', '.join(valid)}"
            found.append(Problem(key, f"saw {shown(mapping[key])}, but {message}"))
    train = mapping.get("train")
    for key, value in train.items() if isinstance(train, Mapping) else ():
        if key != "steps" and value is not None:
            message = "but of train a command is told the steps alone; give it as a word of the command"
            found.append(Problem(f"train.{key}", f"saw {shown(value)}, {message}"))
    return found


def _code_of(mapping: Mapping[str, Any], problems: list[Problem]) -> Code | None:
    """The code that a configuration names by its hash; it was imported by who loaded the sweep, or begins a trial."""
    recorded = mapping.get("code")
    if recorded is None:
        return None
    code = codes.inherited(recorded.get("hash")) if isinstance(recorded, Mapping) else None
    if code is None:
        seen = recorded if isinstance(recorded, str) else dict(recorded)
        problems.append(Problem("code", f"saw {shown(seen)}, which is not imported here; load it from its run folder"))
    return code


def _made(kind: type[ChosenT], values: tuple[str, BaseModel, Any]) -> ChosenT:
    made = object.__new__(kind)
    for key, value in zip(("name", "settings", "thing"), values, strict=True):
        object.__setattr__(made, key, value)
    return made


def choose(kind: type[ChosenT], mapping: Mapping[str, Any], section: str) -> ChosenT:
    """One section of a configuration by itself; raises ConfigError."""
    problems: list[Problem] = []
    found = _choose(kind, mapping[section], section, _code_of(mapping, problems), problems)
    if problems or found is None:
        raise ConfigError(problems)
    return _made(kind, found)


def _choose(
    kind: type[Chosen], mapping: object, path: str, code: Code | None, problems: list[Problem]
) -> tuple[str, BaseModel, Any] | None:
    """Name, settings and thing of a section; notes what is wrong with it."""
    if isinstance(mapping, str):
        mapping = {"name": mapping}  # `schedule: decay` is short for `schedule: {name: decay}`
    if not isinstance(mapping, Mapping):
        names = ", ".join(("name", *all_keys(kind, code)))
        problems.append(Problem(path, f"saw {shown(mapping)}, expected a mapping with keys among: {names}"))
        return None
    name = mapping.get("name")
    name = kind.usual if name is None else name
    before, found = len(problems), kind.found(name, code)
    if found is None:
        ours = list(kind.ours())
        told = (
            f"saw {shown(name)}, expected a string"
            if not isinstance(name, str)
            else codes.unknown(name, kind.role, ours, code)
        )
        told = one_of(name, kind.all(code)) if not isinstance(name, str) and kind is not DataConfig else told
        problems.append(Problem(join(path, "name"), told))
    own = fields((found or kind.ours()[kind.usual]).settings)
    given = {}
    for key, value in mapping.items():
        if key == "name":
            continue
        if key in own:
            given[key] = value
        elif key not in (known := all_keys(kind, code)):  # of everything, which takes its time: for such keys alone
            problems.append(
                Problem(join(path, key), f"unknown key; {nearest(key, ('name', *(own if found else known)))}")
            )
        elif found is not None and value is not None and (join(path, key), value) not in WRITTEN_ALWAYS:
            message = f"saw {shown(value)}, but {name} has no {key}; it has: {', '.join(own) or 'no settings'}"
            problems.append(Problem(join(path, key), message))
    settings = _parsed((found or kind.ours()[kind.usual]).settings, given, path, problems)
    if found is None or settings is None or len(problems) > before:
        return None
    return str(name), settings, found.thing


def _parsed(kind: type[BaseModel], mapping: object, path: str, problems: list[Problem]) -> Any:
    try:
        return parse(kind, mapping, path)
    except ConfigError as error:
        problems += error.problems
        return None


def _loss(mapping: Mapping[str, Any], code: Code | None, problems: list[Problem]) -> Any:
    """The settings of the loss, as the model has them."""
    written_, model = mapping["loss"], mapping.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    found = ModelConfig.found(ModelConfig.usual if name is None else name, code)
    own = QuantileLoss if found is None else found.thing.loss
    if own is not None or not isinstance(written_, Mapping):
        return _parsed(own or NoLoss, written_, "loss", problems)
    for key, value in written_.items():
        if key not in loss_keys(code):
            problems.append(Problem(join("loss", key), f"unknown key; {nearest(key, loss_keys(code))}"))
        elif value is not None:
            message = f"saw {shown(value)}, but {name} has no {key} in its loss; leave it out"
            problems.append(Problem(join("loss", key), message))
    return None


def all_keys(kind: type[Chosen], code: Code | None = None) -> dict[str, Any]:
    """Every key that anything of a section has, with its type; where types differ, that of somebody's own class."""
    return {key: hint_of(f) for found in kind.all(code).values() for key, f in fields(found.settings).items()}


def loss_keys(code: Code | None = None) -> dict[str, Any]:
    """The same of the section `loss`."""
    losses = [found.thing.loss for found in ModelConfig.all(code).values() if found.thing.loss is not None]
    return {key: hint_of(f) for loss in losses for key, f in fields(loss).items()}


def key_types(code: Code | None = None) -> dict[str, Any]:
    """Every dotted key of a configuration with its type without bounds; a section is a `dict`."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        found[section] = dict
        if section in NAMED:
            hints = {"name": str, **all_keys(NAMED[section], code)}
        elif section in PLAIN:
            hints = {key: hint_of(f) for key, f in fields(PLAIN[section]).items()}
        else:
            hints = loss_keys(code)
        found |= {f"{section}.{key}": plain(hint) for key, hint in hints.items()}
    return {**found, "seed": int}


def config_hash(mapping: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name a configuration."""
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settled(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that are neither null nor the default of what is named, to compare configurations by.

    An earlier version has not written the settings that it did not know; it trained as by their defaults. Of somebody's
    class whose code is not imported nothing is a default.
    """
    recorded = mapping.get("code")
    code = codes.loaded(recorded.get("hash")) if isinstance(recorded, Mapping) else None
    defaults = dict(WRITTEN_ALWAYS)
    defaults |= {path: value for section in mapping for path, value in _defaults(mapping, section, code)}
    return {path: value for path, value in dotted(mapping) if value is not None and value != defaults.get(path, _NEVER)}


_NEVER = object()
WRITTEN_ALWAYS = [("model.conditional", False)]  # by earlier versions, for models that cannot be conditional too


def _defaults(mapping: Mapping[str, Any], section: str, code: Code | None) -> Iterator[tuple[str, Any]]:
    kind: type[BaseModel] | None = PLAIN.get(section)
    if section in NAMED:
        yield f"{section}.name", NAMED[section].usual
        named = mapping[section]
        name = named.get("name") if isinstance(named, Mapping) else named
        found = NAMED[section].found(name or NAMED[section].usual, code)
        kind = None if found is None else found.settings
    elif section == "loss":
        model = mapping.get("model")
        name = model.get("name") if isinstance(model, Mapping) else model
        found = ModelConfig.found(name or ModelConfig.usual, code)
        kind = None if found is None else found.thing.loss
    yield from () if kind is None else ((f"{section}.{key}", value) for key, value in _own_defaults(kind).items())


@functools.cache
def _own_defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a class of settings as JSON has them; a key that must be given has none."""
    filled = {key: f.get_default(call_default_factory=True) for key, f in fields(kind).items() if not f.is_required()}
    return json.loads(json.dumps(filled, default=str))


def section_defaults() -> dict[str, dict[str, Any]]:
    """What a training has where nothing is written: names, and the settings that have no name."""
    named: dict[str, dict[str, Any]] = {name: {"name": kind.usual} for name, kind in NAMED.items()}
    named["data"]["path"] = None
    return {key: named.get(key) or (written(PLAIN[key]()) if key in PLAIN else {}) for key in SECTIONS}
