"""Settings of one training, checked once where they enter. Standard library only."""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from aiqn_core.metric import Metric, image_metrics, loss_metric, vector_metrics

T = TypeVar("T")
KAPPA = 0.002  # half a grey level in [0, 1] units, the paper's choice (appendix, "Hyperparameter Tuning")
VECTOR_DATA = ("gaussian2d", "banana2d", "mixture2d")  # all other data are images
BUNDLED_DATA = ("digits", "patches", *VECTOR_DATA)


class Problem(NamedTuple):
    """One mistake in a mapping: the dotted path of the key, and what was seen, what is valid."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """All mistakes of one configuration at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `above` excludes its end, `low` and `high` include theirs."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        ends = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return " and ".join(f"{sign} {end:g}" for sign, end in ends if math.isfinite(end))


Count = Annotated[int, Range(low=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True)
class DataConfig:
    """Which images or vectors: bundled, or prepared by `aiqn data prepare`, with `path` the folder written to."""

    name: str = "digits"
    path: str | None = None


_VAE_DEFAULTS = {"layers": 4, "planes": 64, "kernel": 5, "latent": 32}
_PIXEL_DEFAULTS = {
    "layers": 4,
    "planes": 32,
    "kernel": 5,
    "skip_planes": 128,
    "out_hidden": 0,
    "tau_mode": "causal",
    "trunk": "gated",
}
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "pixelcnn": _PIXEL_DEFAULTS,
    "pixeliqn": _PIXEL_DEFAULTS,
    "made": {"hidden": (64, 64), "components": 8},
    "aiqn": {"hidden": (64, 64), "tau_mode": "local", "dependence": "autoregressive"},
    "vae": {**_VAE_DEFAULTS, "latent_variance": 1.0, "kl_weight": 2.0},
    "aiqn_vae": {
        **_VAE_DEFAULTS,
        "latent_variance": 0.1,
        "kl_weight": 0.5,
        "hidden": (512, 512, 512),
        "tau_mode": "causal",
        "detach": True,
    },
}
SNAIL_DEFAULTS = {"heads": 2, "attention": 2}
VECTOR_MODELS = ("made", "aiqn")
PIXEL_MODELS = ("pixelcnn", "pixeliqn")  # one sub-pixel after the other: inpainting, and classes
LIKELIHOODS = ("pixelcnn", "made", "vae")  # trained by likelihood, or a bound of it: no kappa


@dataclass(frozen=True)
class ModelConfig:
    """A model by name with its own sizes; those of another model are refused.

    Of images: the gated PixelCNN trunk with one of two heads (paper section 4; sizes in its appendix), or a VAE, whose
    `layers` convolutions have `planes`, twice as many, ... Of vectors: masked fully connected layers (section 3).
    """

    name: Literal["pixelcnn", "pixeliqn", "made", "aiqn", "vae", "aiqn_vae"] = "pixeliqn"
    layers: Count | None = None
    planes: Annotated[int, Range(low=3)] | None = None  # at least one plane for each colour
    kernel: Annotated[int, Range(low=3)] | None = None
    skip_planes: Annotated[int, Range(low=3)] | None = None
    out_hidden: Annotated[int, Range(low=0)] | None = None
    tau_mode: Literal["causal", "local", "paper"] | None = None
    trunk: Literal["gated", "snail"] | None = None  # the blocks between image and head: the paper's, or PixelSNAIL's
    heads: Count | None = None  # of each attention in a snail trunk
    attention: Count | None = None  # one after each so many blocks of a snail trunk
    conditional: bool = False
    hidden: tuple[Count, ...] | None = None  # width of each fully connected layer
    dependence: Literal["autoregressive", "independent", "shared"] | None = None  # the last two: naive, section 3
    components: Count | None = None  # Gaussians in the mixture that is one dimension's conditional density
    latent: Count | None = None  # dimensions of a VAE's code
    latent_variance: Positive | None = None  # of the noise in a VAE's code, in units of what the encoder says
    kl_weight: NonNegative | None = None  # against the squared error of an image in [-1, 1]
    detach: bool | None = None  # whether the quantile loss leaves the encoder alone

    def __post_init__(self) -> None:
        own = MODEL_DEFAULTS[self.name]
        if self.trunk == "snail" and self.name in PIXEL_MODELS:
            own = {**own, **SNAIL_DEFAULTS}
        if self.conditional and self.name not in PIXEL_MODELS:
            message = f"saw true, but {self.name} has no labels; those that can: {', '.join(PIXEL_MODELS)}"
            raise ConfigError([Problem("conditional", message)])
        for f in dataclasses.fields(self)[1:]:
            value = getattr(self, f.name)
            if value is not None and f.name not in own and f.name != "conditional":
                gated = f.name in SNAIL_DEFAULTS and self.name in PIXEL_MODELS
                which = f"{self.name} with a gated trunk" if gated else self.name
                message = f"saw {shown(value)}, but {which} has no {f.name}; it has: {', '.join(own)}"
                raise ConfigError([Problem(f.name, message)])
            if value is None and f.name in own:
                object.__setattr__(self, f.name, own[f.name])  # so that the recorded configuration is complete
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ConfigError([Problem("kernel", f"saw {self.kernel}, expected an odd integer")])
        of_vectors = self.name in ("aiqn", "aiqn_vae")
        naive = self.dependence in ("independent", "shared")
        if of_vectors and self.tau_mode not in (valid := ("local",) if naive else ("causal", "local")):
            which = f"{self.name}, {self.dependence}" if self.dependence else self.name
            message = f"saw {shown(self.tau_mode)}; valid for {which}: {', '.join(valid)}"
            raise ConfigError([Problem("tau_mode", message)])

    @classmethod
    def preset(cls, size: str, *, name: Literal["pixelcnn", "pixeliqn"], **changes: Any) -> Self:
        """The paper's two sizes: 15 blocks of 128 planes ("small"), 20 blocks of 256 planes ("large").

        Parameters at 3 channels: small 12,267,904 (pixelcnn) and 11,495,299 (pixeliqn), large 57,474,816 and
        56,721,411. In tau_mode "paper", where tau enters both stacks of a block, 11,506,819 and 56,752,131.
        """
        sizes = {"small": {"layers": 15, "planes": 128}, "large": {"layers": 20, "planes": 256}}
        if size not in sizes:
            raise ConfigError([Problem("preset", one_of(size, sizes))])
        return cls(**{"name": name, "kernel": 5, "skip_planes": 1024, **sizes[size], **changes})


@dataclass(frozen=True)
class LossConfig:
    """Of the quantile losses: the Huber threshold kappa (0 is the plain loss), and how tau is drawn.

    kappa is in units of the pixel range, or of the vectors. Up to half a level it changes no rounded pixel; on
    continuous vectors every kappa above 0 narrows the distribution. stratified: tau at one place over the batch falls
    once into each of equal intervals; antithetic: tau and 1 - tau.
    """

    kappa: NonNegative | None = None
    tau_sampling: Literal["uniform", "stratified", "antithetic"] | None = None


OPTIMIZER_DEFAULTS: dict[str, dict[str, float]] = {
    "rmsprop": {"alpha": 0.99, "momentum": 0.0, "eps": 1e-8},
    # TensorFlow's at the time of the paper: eps inside the root, accumulator from 1, lr inside the momentum
    "rmsprop_tf": {"alpha": 0.9, "momentum": 0.0, "eps": 1e-10, "initial_accumulator": 1.0},
    "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "sgd": {"momentum": 0.0},
}


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser by name with its own arguments; those of another optimiser are refused."""

    name: Literal["rmsprop", "rmsprop_tf", "adam", "sgd"] = "adam"
    lr: Positive = 1e-4
    momentum: Fraction | None = None
    alpha: Fraction | None = None
    beta1: Fraction | None = None
    beta2: Fraction | None = None
    eps: Positive | None = None
    initial_accumulator: NonNegative | None = None

    def __post_init__(self) -> None:
        own = OPTIMIZER_DEFAULTS[self.name]
        for f in dataclasses.fields(self)[2:]:
            value = getattr(self, f.name)
            if value is not None and f.name not in own:
                message = f"saw {shown(value)}, but {self.name} has no {f.name}; it has: lr, {', '.join(own)}"
                raise ConfigError([Problem(f.name, message)])
            if value is None and f.name in own:
                object.__setattr__(self, f.name, own[f.name])  # so that the recorded configuration is complete


PAPER_BOUNDARIES, PAPER_FACTORS = (120_000, 180_000), (0.3, 0.1)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps: constant, or `lr * factors[i]` from step `boundaries[i]` on.

    paper_decay is the paper's regime: with lr 1e-4, 1e-4 for 120K steps, 3e-5 for 60K, 1e-5 after (appendix).
    Without boundaries, decay keeps its proportions for 300K steps at any number of steps: 40 % and 60 %.
    """

    name: Literal["constant", "decay", "paper_decay"] = "constant"
    boundaries: tuple[Annotated[int, Range(low=1)], ...] | None = None
    factors: tuple[Positive, ...] | None = None

    def __post_init__(self) -> None:
        if self.name == "constant":
            for key in ("boundaries", "factors"):
                if getattr(self, key) is not None:
                    raise ConfigError([Problem(key, f"saw {getattr(self, key)!r}, but a constant schedule has none")])
            return
        if self.name == "paper_decay":
            for key, value in (("boundaries", PAPER_BOUNDARIES), ("factors", PAPER_FACTORS)):
                if getattr(self, key) not in (None, value):
                    message = f"saw {list(getattr(self, key))}, but paper_decay has {list(value)}; use decay for others"
                    raise ConfigError([Problem(key, message)])
                object.__setattr__(self, key, value)
        if self.factors is None:
            object.__setattr__(self, "factors", PAPER_FACTORS)
        if self.boundaries is not None and self.factors is not None:
            if len(self.boundaries) != len(self.factors):
                message = (
                    f"saw {len(self.factors)} factors for {len(self.boundaries)} boundaries, expected one for each"
                )
                raise ConfigError([Problem("factors", message)])
            if list(self.boundaries) != sorted(set(self.boundaries)):
                raise ConfigError([Problem("boundaries", f"saw {list(self.boundaries)}, expected increasing steps")])
        elif self.factors is not None and len(self.factors) != 2:
            raise ConfigError([Problem("boundaries", f"missing; {len(self.factors)} factors need as many boundaries")])


@dataclass(frozen=True)
class LoopConfig:
    """The training loop: steps, images or vectors per step, averaging of the weights."""

    steps: Count = 1000
    batch_size: Count = 32
    ema_decay: Fraction = 0.9999
    ema_warmup: bool = True
    clip_norm: Positive | None = None
    log_every: Count | None = None  # None: about a hundred points over the training


# Below this side the last map of the network is a single, nearly dead cell: scores measure next to nothing. At 32
# pixels 98 % of the features of Lite0 are 0, and photographs have an inception score of 1.1.
LEAST_SIDES = {"efficientnet-lite0": 64}


@dataclass(frozen=True)
class EvaluateConfig:
    """When and how samples are scored. `features`, `size` (the side in pixels they see) and `splits` are of images.

    `reference` is how many real images (of the training set) or vectors (held out) samples are compared with.
    `extrapolate` adds the distance of infinitely many samples, also of images; the finals of a sweep have it.
    `inception` is the file of that network's weights; left out, the one that the environment names.
    """

    every: Count = 1000
    at: tuple[Count, ...] | None = None  # further steps; a sweep adds those at which its pruner decides
    samples: Annotated[int, Range(low=3)] = 512
    features: Literal["lite0", "inception"] | None = None
    inception: str | None = None
    size: Annotated[int, Range(low=LEAST_SIDES["efficientnet-lite0"])] | None = None
    reference: Annotated[int, Range(low=2)] = 10_000
    splits: Count | None = None
    extrapolate: bool | None = None
    initial: bool = False  # also score the untrained model, at step 0
    keep_weights: bool = False  # keep the averaged weights of every evaluation, to watch images form
    seed: int = 0  # of tau and labels: the same for all trials, so that rankings share their sampling noise


IMAGE_EVALUATION: dict[str, Any] = {"features": "lite0", "splits": 10, "extrapolate": False}
SIDES = {"lite0": 128, "inception": 299}  # in pixels; Inception takes no other
OF_IMAGES = (*IMAGE_EVALUATION, "size", "inception")


class ScoreNames(NamedTuple):
    """What the scores with one feature extractor are called; `score` is followed by _mean and _std."""

    distance: str
    score: str
    kernel: str
    coverage: str


def score_names(features: str) -> ScoreNames:
    """FID, IS and KID are what only the Inception network of those papers gives."""
    if features == "inception":
        return ScoreNames("fid", "is", "kid", "coverage_inception")
    return ScoreNames(f"fd_{features}", f"is_{features}", f"kd_{features}", f"coverage_{features}")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of one training; it knows which data, model and scores go together."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_kind()
        defaults: dict[str, Any] = {"kappa": 0.0 if self.of_vectors else KAPPA, "tau_sampling": "uniform"}
        given = {key: value for key in defaults if (value := getattr(self.loss, key)) is not None}
        if self.model.name not in LIKELIHOODS:
            object.__setattr__(self, "loss", LossConfig(**{**defaults, **given}))
        elif given:
            key, value = next(iter(given.items()))
            message = f"saw {shown(value)}, but {self.model.name} is trained by likelihood and has no {key}"
            raise ConfigError([Problem(f"loss.{key}", message)])
        if self.evaluate.splits is not None and self.evaluate.samples < self.evaluate.splits:
            message = f"saw {self.evaluate.splits}, expected at most evaluate.samples = {self.evaluate.samples}"
            raise ConfigError([Problem("evaluate.splits", message)])

    def _check_kind(self) -> None:
        """Refuse a model, or settings of the evaluation, that the data are not made for; complete those of images."""
        kinds = {False: "images", True: "vectors"}
        if (self.model.name in VECTOR_MODELS) != self.of_vectors:
            valid = [name for name in MODEL_DEFAULTS if (name in VECTOR_MODELS) == self.of_vectors]
            message = (
                f"saw {self.model.name!r}, a model of {kinds[not self.of_vectors]}, but {self.data.name} is data of"
                f" {kinds[self.of_vectors]}; valid: {', '.join(valid)}"
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
        given = {key: value for key, value in vars(self.evaluate).items() if value is not None}
        evaluate = EvaluateConfig(**{**IMAGE_EVALUATION, "size": SIDES[given.get("features", "lite0")], **given})
        if evaluate.features == "inception" and evaluate.size != SIDES["inception"]:
            message = f"saw {evaluate.size}, but Inception sees {SIDES['inception']} pixels a side; leave it out"
            raise ConfigError([Problem("evaluate.size", message)])
        if evaluate.features != "inception" and evaluate.inception is not None:
            message = f"saw {shown(evaluate.inception)}, but the features are {evaluate.features}; leave it out"
            raise ConfigError([Problem("evaluate.inception", f"{message}, or set evaluate.features: inception")])
        object.__setattr__(self, "evaluate", evaluate)

    @property
    def of_vectors(self) -> bool:
        """Whether the data are vectors; otherwise they are images."""
        return self.data.name in VECTOR_DATA

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The facts of what an evaluation measures, the distance first; not of times, counts and ends of error bars."""
        return metrics_of(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The configuration of a nested mapping; raises ConfigError with every unknown key and bad value."""
        return parse(cls, mapping)

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of plain JSON values; `from_dict` gives the same configuration back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def metrics_of(config: TrainConfig) -> tuple[Metric, ...]:
    """What an evaluation of this configuration reports, in one table for all models."""
    likelihood = config.model.name in LIKELIHOODS
    if config.of_vectors:
        held_out = (Metric("test_nll", "minimize", "nats per vector"),) if likelihood else ()
        return (*vector_metrics(), loss_metric(loss_unit(config)), *held_out)
    assert config.evaluate.features is not None  # completed for images
    names = score_names(config.evaluate.features)
    (distance, *others), variance = image_metrics(*names), config.model.latent_variance
    scores = (distance, *others, loss_metric(loss_unit(config)))
    if config.model.name == "pixelcnn":
        return (*scores, Metric("bits_per_dim", "minimize", "bits per sub-pixel", low=0))
    if config.model.name == "pixeliqn":
        return (*scores, Metric("calibration_error", "minimize", "probability", low=0, high=1))
    unit = f"nats per image, at latent variance {variance:g}"
    decoded = [f"reconstruction_{names.distance}", *([f"prior_{names.distance}"] * (config.model.name == "aiqn_vae"))]
    return (
        *scores,
        *(Metric(name, "minimize", distance.unit, low=0) for name in decoded),
        Metric("squared_error", "minimize", "squared pixel range per sub-pixel", low=0),
        Metric("kl", "minimize", unit, low=0),
    )


def loss_unit(config: TrainConfig) -> str:
    """What one unit of the training loss is, with every setting that changes its meaning."""
    model, loss = config.model, config.loss
    likelihoods = {"pixelcnn": "nats per sub-pixel", "made": "nats per vector"}
    if model.name in likelihoods:
        return likelihoods[model.name]
    quantiles = f"Huber quantile loss at kappa {loss.kappa or 0:g}, tau {loss.tau_sampling}"
    if model.latent is None:
        return f"{quantiles}, of {'vectors' if config.of_vectors else 'pixels'}"
    weighed = f"squared error + {model.kl_weight:g} KL at latent variance {model.latent_variance:g}"
    detached = "detached" if model.detach else "not detached"
    return weighed if model.name == "vae" else f"{weighed}, + {quantiles}, of codes, {detached}"


def config_hash(mapping: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name a configuration."""
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


LONGEST_VALUE = 200  # characters of a value in a message


def shown(value: object) -> str:
    """A value as a message shows it: of one that is long the beginning and the end."""
    text = repr(value)
    half = LONGEST_VALUE // 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]} ... {text[-half:]}"


def nearest(word: object, valid: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """ "did you mean ...?" where something is close, then all that is valid."""
    names = [str(name) for name in valid]
    close = difflib.get_close_matches(str(word), names, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"valid: {', '.join(names)}"


def one_of(value: object, valid: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """The message for a word that is not among the valid ones."""
    return f"saw {shown(value)}; {nearest(value, valid)}"


def parse(cls: type[T], mapping: object, path: str = "") -> T:
    """An instance of a settings dataclass; raises ConfigError with all problems, each with its dotted path."""
    problems: list[Problem] = []
    value = _parse_section(cls, mapping, path, problems)
    if problems:
        raise ConfigError(problems)
    return value


def _parse_section(cls: Any, mapping: object, path: str, problems: list[Problem]) -> Any:
    hints = get_type_hints(cls, include_extras=True)
    if isinstance(mapping, str) and "name" in hints:
        mapping = {"name": mapping}  # `schedule: decay` is short for `schedule: {name: decay}`
    if not isinstance(mapping, Mapping):
        problems.append(Problem(path, f"saw {shown(mapping)}, expected a mapping with keys among: {', '.join(hints)}"))
        return None
    before, values = len(problems), {}
    for key, value in mapping.items():
        if key not in hints:
            problems.append(Problem(join(path, key), f"unknown key; {nearest(key, hints)}"))
        else:
            values[key] = _parse_value(hints[key], value, join(path, key), problems)
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:  # what only the whole section can tell
        problems.extend(Problem(join(path, problem.path), problem.message) for problem in error.problems)
        return None


def _parse_value(hint: Any, value: object, path: str, problems: list[Problem]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _parse_section(hint, value, path, problems)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _parse_value(next(arg for arg in args if arg is not type(None)), value, path, problems)
    if origin is tuple:
        if isinstance(value, (list, tuple)) and value:
            return tuple(_parse_value(args[0], item, f"{path}[{i}]", problems) for i, item in enumerate(value))
        problems.append(Problem(path, f"saw {shown(value)}, expected a list of {_kind(args[0])}"))
    elif origin is Literal:
        if value in args and isinstance(value, str):
            return value
        problems.append(Problem(path, one_of(value, args)))
    else:
        kind, bounds = (args[0], args[1]) if origin is Annotated else (hint, Range())
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is kind and (not isinstance(value, int | float) or (math.isfinite(value) and value in bounds)):
            return value
        problems.append(Problem(path, f"saw {shown(value)}, expected {_kind(hint)}"))
    return None


def _kind(hint: Any) -> str:
    kind, bounds = (get_args(hint)[0], str(get_args(hint)[1])) if get_origin(hint) is Annotated else (hint, "")
    name = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}[kind]
    return f"{name} {bounds}".strip()


def join(path: str, key: object) -> str:
    """The dotted path of a key below `path`."""
    return f"{path}.{key}" if path else str(key)


def dotted(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping as (dotted path, value)."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from dotted(value, join(path, key))
        else:
            yield join(path, key), value


def settled(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that are neither null nor the default, to compare configurations by.

    An earlier version has not written the settings that it did not know; it trained as by their defaults.
    """
    defaults = _dotted_defaults()
    return {path: value for path, value in dotted(mapping) if value not in (None, defaults.get(path))}


def section_defaults() -> dict[str, dict[str, Any]]:
    """Section -> key -> default, as they are written in the classes, before one setting fills in another."""
    sections = {name: kind for name, kind in get_type_hints(TrainConfig).items() if dataclasses.is_dataclass(kind)}
    return {name: {f.name: f.default for f in dataclasses.fields(kind)} for name, kind in sections.items()}


@functools.cache
def _dotted_defaults() -> dict[str, Any]:
    return dict(dotted(section_defaults()))
