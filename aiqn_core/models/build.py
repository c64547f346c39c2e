"""One of our models by its configuration, with fresh weights."""

from typing import Any

from aiqn_core.config import ModelConfig
from aiqn_core.method import Method


def build_model(config: ModelConfig, shape: tuple[int, ...], num_classes: int = 0, loss: Any = None) -> Any:
    """The method of a configuration for data of one shape, with fresh weights; see `aiqn_core.method.Method`.

    The shape is (channel, height, width) of images, (dimensions,) of vectors. `num_classes` is how many labels the
    data has; it is read only where `conditional` is true. Raises ValueError for another shape, for `conditional`
    without at least two classes and for fewer planes than channels, or a layer narrower than the vectors.
    """
    kind = config.kind
    if kind.data == "vectors" and (len(shape) != 1 or shape[0] < 1):
        raise ValueError(f"shape: saw {shape}, but {config.name} models vectors; expected (dimensions,), as (2,)")
    if kind.data == "images" and (len(shape) != 3 or min(shape) < 1):
        raise ValueError(f"image_shape: saw {shape}, expected (channel, height, width), for example (3, 32, 32)")
    if config.conditional and num_classes < 2:  # all images of one class: the label would tell nothing
        raise ValueError(
            f"conditional: saw true with {num_classes} classes; use data that has labels, or set conditional to false"
        )
    classes = num_classes if config.conditional else 0
    built: Method = kind.load()(config.settings, shape, classes, **({} if loss is None else {"loss": loss}))
    return built
