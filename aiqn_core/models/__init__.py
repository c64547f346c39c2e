"""Our six models. What is known of them without torch is in `settings`; their classes are imported when asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiqn_core.models.build import build_model as build_model
    from aiqn_core.models.pixels import PixelCNN as PixelCNN
    from aiqn_core.models.pixels import PixelIQN as PixelIQN
    from aiqn_core.models.vae import AIQNVAE as AIQNVAE
    from aiqn_core.models.vae import VAE as VAE
    from aiqn_core.models.vectors import AIQN as AIQN
    from aiqn_core.models.vectors import MADE as MADE

_FACE = {
    "build_model": "build",
    **dict.fromkeys(("PixelCNN", "PixelIQN"), "pixels"),
    **dict.fromkeys(("VAE", "AIQNVAE"), "vae"),
    **dict.fromkeys(("AIQN", "MADE"), "vectors"),
}


def __getattr__(name: str) -> Any:
    # Not imported above: who only reads the settings of a sweep waits for no torch.
    if name in _FACE:
        return getattr(importlib.import_module(f"aiqn_core.models.{_FACE[name]}"), name)
    raise AttributeError(f"aiqn_core.models has no {name}")
