"""The settings of our six models, and what each reports: read without torch, while a sweep file is checked."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from aiqn_core.method import Kind, lazily
from aiqn_core.metric import Metric, loss_metric
from aiqn_core.settings import ConfigError, Count, Expected, NonNegative, Positive, Problem, Settings, shown

KAPPA = 0.002  # half a grey level in [0, 1] units, the paper's choice (appendix, "Hyperparameter Tuning")
SIDE = Field(ge=3)
TauSampling = Literal["uniform", "stratified", "antithetic"]


class QuantileLoss(Settings):
    """The quantile loss of images: its Huber threshold, and how tau is drawn."""

    kappa: NonNegative = KAPPA
    """Huber threshold in units of the pixel range; 0 is the plain loss. Up to half a level it changes no pixel."""
    tau_sampling: TauSampling = "uniform"
    """stratified: tau at one place over the batch falls once into each of equal intervals; antithetic: tau, 1 - tau."""


class VectorQuantileLoss(QuantileLoss):
    """The quantile loss of vectors: the same, in their units."""

    kappa: NonNegative = 0.0
    """Huber threshold in the units of the vectors; every value above 0 narrows the distribution."""


class _Kernel(Settings):
    kernel: Annotated[int, SIDE] = 5
    """Side of the convolutions, an odd number."""

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise Expected("an odd integer")
        return value


class PixelSettings(_Kernel):
    """The gated trunk of the paper's section 4 (sizes in its appendix), or PixelSNAIL's."""

    layers: Count = 4
    """Blocks between image and head."""
    planes: Annotated[int, SIDE] = 32
    """Feature planes of each block; at least one for each colour."""
    skip_planes: Annotated[int, SIDE] = 128
    """Planes of the layer that the skip connections of all blocks lead into."""
    out_hidden: Annotated[int, Field(ge=0)] = 0
    """Further layers of that width before the head."""
    tau_mode: Literal["causal", "local", "paper"] = "causal"
    """What of tau an output sees: its own and earlier ones, its own alone, or (the paper's 1x1) all of its pixel."""
    trunk: Literal["gated", "snail"] = "gated"
    """The blocks between image and head: the paper's, or PixelSNAIL's."""
    heads: Count | None = None
    """Heads of each attention; of a snail trunk alone, where it is 2."""
    attention: Count | None = None
    """One attention after each so many blocks; of a snail trunk alone, where it is 2."""
    conditional: bool = False
    """Whether the model is told the class of each image."""

    @model_validator(mode="after")
    def _attention(self) -> Self:
        for key in ("heads", "attention"):
            value = getattr(self, key)
            if self.trunk == "snail":
                object.__setattr__(self, key, value or 2)  # so that the recorded configuration is complete
            elif value is not None:
                own = [name for name in type(self).model_fields if name not in ("heads", "attention")]
                message = f"saw {shown(value)}, but a gated trunk has no {key}; it has: {', '.join(own)}"
                raise ConfigError([Problem(key, message)])
        return self


class MADESettings(Settings):
    """Masked fully connected layers (Germain et al. 2015), the likelihood baseline of vectors (section 3)."""

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 64)
    """Width of each fully connected layer."""
    components: Count = 8
    """Gaussians in the mixture that is one dimension's conditional density."""


class AIQNSettings(Settings):
    """An autoregressive implicit quantile network of vectors, or one of the paper's naive ones (section 3)."""

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 64)
    """Width of each fully connected layer."""
    tau_mode: Literal["causal", "local"] = "local"
    """Whether an output sees its own tau alone, or earlier ones too."""
    dependence: Literal["autoregressive", "independent", "shared"] = "autoregressive"
    """independent: the product of the marginals; shared: one tau for all dimensions."""

    @model_validator(mode="after")
    def _naive(self) -> Self:
        if self.dependence != "autoregressive" and self.tau_mode != "local":
            message = f"saw {shown(self.tau_mode)}; valid for aiqn, {self.dependence}: local"
            raise ConfigError([Problem("tau_mode", message)])
        return self


class VAESettings(_Kernel):
    """A convolutional VAE, whose code is drawn from its prior."""

    layers: Count = 4
    """Convolutions that halve the image."""
    planes: Annotated[int, SIDE] = 64
    """Planes of the first; each next one has twice as many."""
    latent: Count = 32
    """Dimensions of the code."""
    latent_variance: Positive = 1.0
    """Of the noise in the code, in units of what the encoder says."""
    kl_weight: NonNegative = 2.0
    """Weight of the divergence, against the squared error of an image in [-1, 1]."""


class AIQNVAESettings(VAESettings):
    """A VAE whose codes are drawn from an AIQN that is trained beside it (appendix, "AIQN-VAE")."""

    latent_variance: Positive = 0.1
    """Of the noise in the code, in units of what the encoder says."""
    kl_weight: NonNegative = 0.5
    """Weight of the divergence, against the squared error of an image in [-1, 1]."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (512, 512, 512)
    """Width of each fully connected layer of the AIQN."""
    tau_mode: Literal["causal", "local"] = "causal"
    """Whether an output of the AIQN sees its own tau alone, or earlier ones too."""
    detach: bool = True
    """Whether the quantile loss leaves the encoder alone."""


def quantile_unit(loss: BaseModel | None, of: str) -> str:
    """What one unit of a quantile loss is, with every setting that changes its meaning."""
    assert isinstance(loss, QuantileLoss)
    return f"Huber quantile loss at kappa {loss.kappa:g}, tau {loss.tau_sampling}, of {of}"


def pixelcnn_metrics(settings: BaseModel, loss: BaseModel | None, distance: Metric) -> tuple[Metric, ...]:
    """The likelihood of held-out images beside the loss."""
    return loss_metric("nats per sub-pixel"), Metric("bits_per_dim", "minimize", "bits per sub-pixel", low=0)


def pixeliqn_metrics(settings: BaseModel, loss: BaseModel | None, distance: Metric) -> tuple[Metric, ...]:
    """How far the quantiles of held-out images are from their levels, beside the loss."""
    calibrated = Metric("calibration_error", "minimize", "probability", low=0, high=1)
    return loss_metric(quantile_unit(loss, "pixels")), calibrated


def made_metrics(settings: BaseModel, loss: BaseModel | None, distance: Metric) -> tuple[Metric, ...]:
    """The likelihood of held-out vectors beside the loss."""
    return loss_metric("nats per vector"), Metric("test_nll", "minimize", "nats per vector")


def aiqn_metrics(settings: BaseModel, loss: BaseModel | None, distance: Metric) -> tuple[Metric, ...]:
    """The loss alone."""
    return (loss_metric(quantile_unit(loss, "vectors")),)


def vae_metrics(settings: BaseModel, loss: BaseModel | None, distance: Metric) -> tuple[Metric, ...]:
    """What the code keeps of an image, and where there is an AIQN what the prior alone would give."""
    assert isinstance(settings, VAESettings)
    variance = f"{settings.latent_variance:g}"
    unit, decoded = f"squared error + {settings.kl_weight:g} KL at latent variance {variance}", ["reconstruction"]
    if isinstance(settings, AIQNVAESettings):
        detached = "detached" if settings.detach else "not detached"
        unit = f"{unit}, + {quantile_unit(loss, 'codes')}, {detached}"
        decoded.append("prior")
    return (
        loss_metric(unit),
        *(Metric(f"{name}_{distance.name}", "minimize", distance.unit, low=0) for name in decoded),
        Metric("squared_error", "minimize", "squared pixel range per sub-pixel", low=0),
        Metric("kl", "minimize", f"nats per image, at latent variance {variance}", low=0),
    )


OVER_BATCH = "it normalises over the batch, which workers would split"
KINDS = (
    Kind("pixelcnn", PixelSettings, lazily("aiqn_core.models.pixels", "PixelCNN"), pixelcnn_metrics, data="images"),
    Kind(
        "pixeliqn",
        PixelSettings,
        lazily("aiqn_core.models.pixels", "PixelIQN"),
        pixeliqn_metrics,
        QuantileLoss,
        data="images",
    ),
    Kind("made", MADESettings, lazily("aiqn_core.models.vectors", "MADE"), made_metrics, data="vectors"),
    Kind(
        "aiqn",
        AIQNSettings,
        lazily("aiqn_core.models.vectors", "AIQN"),
        aiqn_metrics,
        VectorQuantileLoss,
        data="vectors",
    ),
    Kind("vae", VAESettings, lazily("aiqn_core.models.vae", "VAE"), vae_metrics, data="images", one_worker=OVER_BATCH),
    Kind(
        "aiqn_vae",
        AIQNVAESettings,
        lazily("aiqn_core.models.vae", "AIQNVAE"),
        vae_metrics,
        QuantileLoss,
        data="images",
        one_worker=OVER_BATCH,
    ),
)
