"""A close look at one trial: samples, the same samples during training, completions of images that are partly given."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from aiqn_core.data import ImageData, encode_png, image_grid, load_data
from aiqn_core.inpainting import HALVES, Completions, complete, half
from aiqn_core.method import Ordered
from aiqn_core.pictures import FORMATS
from aiqn_core.prepared import PreparedError, prepared_folder, read_about
from aiqn_core.trained import Trained, kept_steps, load_trained
from aiqn_core.training import CheckpointError, proportional_labels
from aiqn_core.training import draw as draw_samples
from orchestrator.outcome import RequestError
from orchestrator.runs import write_bytes

if TYPE_CHECKING:
    from aiqn_core.training import Samples

COLUMNS = 8  # of a grid of samples


def class_number(trial: Path, text: str) -> int:
    """The number of a class given by its name in the prepared data, or else by its number; raises RequestError."""
    data = read_trial(trial).config.data
    try:
        classes = read_about(prepared_folder(data.name, data.path)).get("classes") or []
    except PreparedError:  # bundled, or not on this machine
        classes = []
    if text in classes:
        return int(classes.index(text))
    if text.removeprefix("-").isdecimal():
        return int(text)
    raise RequestError(f"--class: saw {text!r}, expected a number" + (f", or: {', '.join(classes)}" if classes else ""))


def write_samples(trial: Path, to: Path, *, count: int, label: int | None, seed: int) -> list[Path]:
    """Samples of a trial as a picture and as an array; returns the two files.

    Of a conditional model: of one class, or of all in the training images' proportions, one class after the other.
    Raises RequestError.
    """
    trained = read_trial(trial)
    drawn = draw(trained, count, label, seed)
    return [_write(to.with_suffix(".png"), _picture(trained, drawn)), _write_array(to.with_suffix(".npy"), drawn)]


def write_same_tau(trial: Path, to: Path, *, count: int, label: int | None, seed: int) -> tuple[list[Path], list[int]]:
    """The same tau at every step whose weights are kept: a row for each sample, a column for each step.

    Returns the files, and the steps in the order of the columns. Raises RequestError.
    """
    newest = read_trial(trial)
    if len(newest.shape) == 1:
        raise RequestError(f"--same-tau: saw {newest.config.model.name}, a model of vectors; expected one of images")
    steps = kept_steps(trial)
    if not steps:
        raise RequestError(
            f"--same-tau: no weights are kept in {trial}; train with evaluate.keep_weights: true.\n"
            "The grids in its folder samples/ show the same tau at each evaluation too."
        )
    drawn = torch.stack([draw(read_trial(trial, step), count, label, seed) for step in steps], 1)
    picture = image_grid(drawn.flatten(0, 1), len(steps))
    return [_write(to.with_suffix(".png"), picture), _write_array(to.with_suffix(".npy"), drawn)], steps


def write_completions(
    trial: Path, to: Path, *, count: int, completions: int, mask: str, seed: int
) -> tuple[Path, Completions]:
    """Completions of held-out images, as a picture; conditional models are told the class. Raises RequestError."""
    trained = read_trial(trial)
    model, config = trained.model, trained.config
    if not isinstance(model, Ordered) or len(trained.shape) == 1:
        message = f"{config.model.name} has no order of pixels to fill one after the other"
        raise RequestError(f"{trial}: {message}; inpainting needs an autoregressive model, as pixelcnn or pixeliqn")
    _, height, width = model.network.image_shape
    given = read_mask(mask, height, width)
    data = load_data(config.data)
    assert isinstance(data, ImageData)  # the model is one of images
    if count > len(data.test):
        raise RequestError(f"--images: saw {count}, expected at most {len(data.test)}, the number of held-out images")
    label = data.test_labels[:count] if config.model.conditional else None
    generator = torch.Generator().manual_seed(seed)
    made = complete(model, data.test[:count], given, completions, label=label, generator=generator)
    return _write(to.with_suffix(".png"), made.picture()), made


def read_trial(folder: Path, step: int | None = None) -> Trained:
    """The trained model of a trial, on the GPU where there is one; raises RequestError."""
    try:
        trained = load_trained(folder, step)
    except CheckpointError as error:
        raise RequestError(str(error)) from None
    trained.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return trained


def draw(trained: Trained, count: int, label: int | None, seed: int) -> "Samples":
    """Samples at tau of a seed, on the CPU; raises RequestError for a class that there is not."""
    model, generator = trained.model, torch.Generator().manual_seed(seed)
    labels = _labels(trained, count, label, seed)
    noise = torch.rand((count, *model.noise()), generator=generator).to(next(model.parameters()).device)
    return draw_samples(model, noise, None if labels is None else labels.to(noise.device), trained.shape).cpu()


def _labels(trained: Trained, count: int, label: int | None, seed: int) -> Tensor | None:
    classes = trained.num_classes
    if not trained.config.model.conditional:
        if label is not None:
            raise RequestError(f"--class: saw {label}, but the model is not conditional; leave it out")
        return None
    if label is None:  # one class after the other, in the proportions that scores compare with
        return proportional_labels(torch.tensor(trained.class_counts), count, seed).sort().values
    if not 0 <= label < classes:
        raise RequestError(f"--class: saw {label}; valid: 0 to {classes - 1}")
    return torch.full((count,), label)


def read_mask(mask: str, height: int, width: int) -> Tensor:
    """Which pixels are given, (height, width): a half by its name, or a picture whose white pixels are to be filled in.

    Raises RequestError where it is neither, of another size, or leaves nothing to fill in.
    """
    if mask in HALVES:
        return half(mask, height, width)
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(Path(mask).read_bytes()), formats=FORMATS).convert("L")
    except (OSError, ValueError, SyntaxError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a picture that can be read"
        raise RequestError(f"--mask: saw {mask!r}, {reason}; expected {', '.join(HALVES)}, or a PNG") from None
    if picture.size != (width, height):
        seen = f"{picture.width} x {picture.height}"
        raise RequestError(f"--mask: {mask} has {seen} pixels, expected {width} x {height}, the size of the images")
    given = torch.from_numpy(np.asarray(picture) < 128)
    if bool(given.all()):
        raise RequestError(f"--mask: {mask} has no white pixel, so nothing is left to fill in; white is filled in")
    return given


def _picture(trained: Trained, drawn: Tensor) -> np.ndarray:
    if drawn.dim() == 4:
        return image_grid(drawn, min(COLUMNS, math.ceil(math.sqrt(len(drawn)))) if len(drawn) < COLUMNS**2 else COLUMNS)
    return load_data(trained.config.data).picture(drawn)


def _write(path: Path, picture: np.ndarray) -> Path:
    write_bytes(path, encode_png(picture))
    return path


def _write_array(path: Path, drawn: Tensor) -> Path:
    file = io.BytesIO()
    np.save(file, drawn.numpy(), allow_pickle=False)
    write_bytes(path, file.getvalue())
    return path
