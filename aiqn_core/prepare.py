"""From the archives that data sets are published in to the one format of `prepared`."""

from collections.abc import Callable
from pathlib import Path

from aiqn_core.archives import ArchiveError, digest, named
from aiqn_core.config import BUNDLED_DATA
from aiqn_core.datasets import DATASETS as DATASETS
from aiqn_core.datasets import Dataset
from aiqn_core.idx import read_idx, verify_idx
from aiqn_core.own import own_images
from aiqn_core.pictures import Chunk
from aiqn_core.pictures import PrepareError as PrepareError
from aiqn_core.prepared import NAME, PreparedError, prepared_folder, read_prepared, writing
from aiqn_core.splits import Own, divided
from aiqn_core.unpickle import UnpickleError

OWN = (
    "image files in <class>/<image>, Parquet files with an image column, .npy, .npz or IDX files: one, a folder or an "
    "archive of them"
)
Progress = Callable[[str, int, int | None], None]  # what is done, images so far, and of how many where that is known


def prepare(
    name: str,
    source: Path | str,
    to: Path | str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    unverified: bool = False,
    force: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Path:
    """Prepare the data set `name` from the archive or folder `source`; returns the folder that was written.

    `to` is where, see `prepared_folder`; what is there already is kept unless `force`. `size` crops and resizes the
    images of a folder to a square, `channels` is 1 or 3, else 1 where no image has a colour. `unverified` takes
    archives with another checksum and other numbers of images than
    the published ones. Raises PrepareError for wrong or damaged input, and then leaves nothing behind.
    """
    if not NAME.fullmatch(name):
        raise PrepareError(f"saw the name {name!r}, expected up to 64 letters, digits, '_', '.' and '-'")
    source, folder = Path(source).expanduser(), prepared_folder(name, to)
    dataset = DATASETS.get(name)
    if size is not None and dataset is not None:
        raise PrepareError(f"size: saw {size}, but {name} has its own size; leave it out")
    if channels is not None and (dataset is not None or channels not in (1, 3)):
        raise PrepareError(f"channels: saw {channels}, expected 1 or 3 for images of your own; else leave it out")
    if name in BUNDLED_DATA:
        raise PrepareError(f"saw the name {name!r}, which is bundled and needs no preparing; choose another name")
    if not force and folder.exists():
        return _existing(name, folder)
    if not source.exists():
        raise PrepareError(f"{source}: no such file or folder; {name} is read from {_where(dataset)}")
    total = sum(dataset.counts[0]) if dataset is not None and dataset.counts else None
    progress("checking", 0, None)
    try:
        verified = [] if unverified or dataset is None else _verify(source, dataset)
        own = _published(source, dataset) if dataset is not None else own_images(source, size, channels)
        about = {
            "name": name,
            "source": source.name,
            "unverified": unverified,
            "verified": verified,
            "cite": "" if dataset is None else dataset.cite,
            "classes": own.classes,
            "notes": [*own.sorting, *own.notes],
        }
        with writing(folder, about, shuffle=dataset is None or dataset.shuffle) as writer:
            done = 0
            for chunk in divided(own.chunks):
                if dataset is not None:
                    _check_shape(source, dataset, chunk)
                writer.append(*chunk)
                done += len(chunk.images)
                progress("reading", done, total)
            _complete(name, source, dataset, {key: shape[0] for key, shape in writer.shapes.items()}, unverified)
            progress("writing", done, None)
    except (ArchiveError, UnpickleError) as error:
        raise PrepareError(str(error)) from None
    except OSError as error:
        raise PrepareError(f"{folder}: cannot be written ({error})") from None
    except ValueError as error:
        raise error if isinstance(error, PrepareError) else PrepareError(f"{source}: {error}") from None
    return folder


def few(held_out: int) -> list[str]:
    """A warning where too few images are held out for what is measured on them."""
    if held_out >= 100:
        return []
    count = f"{held_out} {'image is' if held_out == 1 else 'images are'}"
    return [
        f"Warning: only {count} held out. Losses, bits per dimension and calibration on them say nothing of new images;"
        " scores of samples compare with the training images, and few of those make them uncertain too."
    ]


def _published(source: Path, dataset: Dataset) -> Own:
    """The images of a published data set as they are; its classes are known, or named in the source."""
    if dataset.class_names is None:
        return Own(dataset.read(source), list(dataset.classes), [], [])
    classes = dataset.class_names(source)
    notes = [] if classes else ["The file with the names of the classes is missing: they are known by number only"]
    return Own(dataset.read(source), classes, [], notes)


def _where(dataset: Dataset | None) -> str:
    return OWN if dataset is None else dataset.where


def _existing(name: str, folder: Path) -> Path:
    try:
        found = read_prepared(folder).about["name"]
    except PreparedError as error:
        raise PrepareError(
            f"{folder} exists but is no prepared data ({error}); choose another --to, or --force"
        ) from None
    if found != name:
        raise PrepareError(f"{folder} holds {found}, expected {name}; choose another --to, or --force")
    return folder


def _verify(source: Path, dataset: Dataset) -> list[str]:
    """The names of the files that are as published; raises PrepareError where one is not."""
    if dataset.read is read_idx:
        return verify_idx(source, dataset.checksums)
    verified = []
    for name, expected in dataset.checksums.items():
        for path in named(source, name):
            algorithm = {32: "md5", 64: "sha256"}[len(expected)]
            if (seen := digest(path, algorithm)) != expected:
                raise PrepareError(
                    f"{path}: saw the {algorithm.upper()} {seen}, expected {expected} as published: it is "
                    "incomplete or altered. Fetch it again, or take it knowingly with --unverified"
                )
            verified.append(name)
    return verified


def _check_shape(source: Path, dataset: Dataset, chunk: Chunk) -> None:
    seen = chunk.images.shape[1:]
    if dataset.shape is not None and seen != dataset.shape:
        raise PrepareError(
            f"{source}: saw images of {seen[2]} x {seen[1]} pixels, expected {dataset.shape[2]} x {dataset.shape[1]}"
        )


def _complete(name: str, source: Path, dataset: Dataset | None, found: dict[str, int], unverified: bool) -> None:
    seen = (found.get("train", 0), found.get("test", 0))
    if not all(seen):
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images; {name} is read from {_where(dataset)}"
        )
    if dataset is not None and dataset.counts and not unverified and seen not in dataset.counts:
        expected = ", or ".join(f"{train} and {test}" for train, test in dataset.counts)
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images, expected {expected}: a part is missing. "
            "Complete it, or take it knowingly with --unverified"
        )
