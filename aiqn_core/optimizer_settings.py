"""The settings of every optimiser, under torch's own names but for pairs: read without torch.

A class names its optimiser in `torch.optim`, and which of its keys are parts of a pair there. `aiqn_core.optimizers`
builds them; a test holds them against the signatures of torch. LBFGS, which needs a closure, and SparseAdam, which
needs sparse gradients, are not among them.
"""

from typing import ClassVar

from pydantic import Field

from aiqn_core.settings import Fraction, NonNegative, Positive, Settings

Pairs = dict[str, tuple[str, str]]
BETAS: Pairs = {"betas": ("beta1", "beta2")}


class Optimizer(Settings):
    """What all optimisers have."""

    torch_name: ClassVar[str]  # in torch.optim, or of our own class
    pairs: ClassVar[Pairs] = {}

    lr: Positive = 1e-4
    """Learning rate, before the schedule."""


class _Decayed(Optimizer):
    weight_decay: NonNegative = 0.0
    """L2 penalty, added to the gradient; with a decoupled decay, what weights shrink by."""


class _Adaptive(_Decayed):
    pairs: ClassVar[Pairs] = BETAS

    beta1: Fraction = 0.9
    """Memory of the mean of the gradient."""
    beta2: Fraction = 0.999
    """Memory of the mean of its square."""
    eps: Positive = 1e-8
    """Added to the root, so that nothing is divided by 0."""


class RMSprop(_Decayed):
    """Steps in units of the root of the squared gradient's running mean."""

    torch_name: ClassVar[str] = "RMSprop"

    momentum: Fraction = 0.0
    """Memory of the step."""
    alpha: Fraction = 0.99
    """Memory of the mean of the squared gradient."""
    eps: Positive = 1e-8
    """Added to the root."""
    centered: bool = False
    """Whether the variance of the gradient takes the place of its square."""


class RMSpropTF(Optimizer):
    """TensorFlow's at the time of the paper: eps inside the root, accumulator from 1, lr inside the momentum."""

    torch_name: ClassVar[str] = "RMSpropTF"

    momentum: Fraction = 0.0
    """Memory of the step."""
    alpha: Fraction = 0.9
    """Memory of the mean of the squared gradient."""
    eps: Positive = 1e-10
    """Added inside the root."""
    initial_accumulator: NonNegative = 1.0
    """The mean of the squared gradient before the first step."""


class Adam(_Adaptive):
    """Kingma and Ba 2015."""

    torch_name: ClassVar[str] = "Adam"

    amsgrad: bool = False
    """Whether the largest mean of squares so far is used (Reddi et al. 2018)."""


class SGD(_Decayed):
    """Stochastic gradient descent."""

    torch_name: ClassVar[str] = "SGD"

    momentum: Fraction = 0.0
    """Memory of the step."""
    dampening: Fraction = 0.0
    """How much less than all of the gradient enters the momentum."""
    nesterov: bool = False
    """Whether the gradient is that of where the momentum leads."""


class AdamW(Adam):
    """Adam with a decay of the weights that does not enter its means (Loshchilov and Hutter 2019)."""

    torch_name: ClassVar[str] = "AdamW"

    weight_decay: NonNegative = 0.01
    """What weights shrink by, in units of the learning rate."""


class NAdam(_Adaptive):
    """Adam with Nesterov's momentum (Dozat 2016)."""

    torch_name: ClassVar[str] = "NAdam"

    momentum_decay: NonNegative = 0.004
    """How fast the momentum's schedule falls."""
    decoupled_weight_decay: bool = False
    """Whether weights decay as in adamw."""


class RAdam(_Adaptive):
    """Adam whose first steps are rectified (Liu et al. 2020)."""

    torch_name: ClassVar[str] = "RAdam"

    decoupled_weight_decay: bool = False
    """Whether weights decay as in adamw."""


class Adamax(_Adaptive):
    """Adam with the largest gradient in place of the mean of squares (Kingma and Ba 2015)."""

    torch_name: ClassVar[str] = "Adamax"


class Adagrad(_Decayed):
    """Steps in units of the root of the sum of squared gradients (Duchi et al. 2011)."""

    torch_name: ClassVar[str] = "Adagrad"

    lr_decay: NonNegative = 0.0
    """How fast the rate falls with the steps."""
    initial_accumulator_value: NonNegative = 0.0
    """The sum before the first step."""
    eps: Positive = 1e-10
    """Added to the root."""


class Adadelta(_Decayed):
    """Steps in units of earlier steps (Zeiler 2012)."""

    torch_name: ClassVar[str] = "Adadelta"

    rho: Fraction = 0.9
    """Memory of both means."""
    eps: Positive = 1e-6
    """Added inside both roots."""


class Adafactor(_Decayed):
    """Adam with a factored mean of squares (Shazeer and Stern 2018)."""

    torch_name: ClassVar[str] = "Adafactor"

    beta2_decay: float = Field(default=-0.8, le=0)
    """Power of the step by which the memory of squares grows."""
    d: Positive = 1.0
    """Largest root mean square of a step."""


class ASGD(_Decayed):
    """Averaged stochastic gradient descent (Polyak and Juditsky 1992)."""

    torch_name: ClassVar[str] = "ASGD"

    lambd: NonNegative = 1e-4
    """How fast the rate falls."""
    alpha: NonNegative = 0.75
    """The power of that fall."""
    t0: NonNegative = 1e6
    """The step from which weights are averaged."""


class Rprop(Optimizer):
    """Steps by the sign of the gradient (Riedmiller and Braun 1993); for full batches."""

    torch_name: ClassVar[str] = "Rprop"
    pairs: ClassVar[Pairs] = {"etas": ("eta_minus", "eta_plus"), "step_sizes": ("smallest_step", "largest_step")}

    eta_minus: float = Field(default=0.5, gt=0, lt=1)
    """What a step shrinks by where the sign turns."""
    eta_plus: float = Field(default=1.2, gt=1)
    """What it grows by where the sign stays."""
    smallest_step: Positive = 1e-6
    """Bound of a step."""
    largest_step: Positive = 50.0
    """Bound of a step."""


class Muon(_Decayed):
    """Orthogonalised momentum for matrices (Jordan et al. 2024); all other parameters are given to adamw."""

    torch_name: ClassVar[str] = "Muon"

    weight_decay: NonNegative = 0.1
    """What weights shrink by, in units of the learning rate."""
    momentum: Fraction = 0.95
    """Memory of the gradient."""
    nesterov: bool = True
    """Whether the gradient is that of where the momentum leads."""
    ns_steps: int = Field(default=5, ge=1, lt=100)
    """Iterations that make the momentum orthogonal."""


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "rmsprop": RMSprop,
    "rmsprop_tf": RMSpropTF,
    "adam": Adam,
    "sgd": SGD,
    "adamw": AdamW,
    "nadam": NAdam,
    "radam": RAdam,
    "adamax": Adamax,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "adafactor": Adafactor,
    "asgd": ASGD,
    "rprop": Rprop,
    "muon": Muon,
}
