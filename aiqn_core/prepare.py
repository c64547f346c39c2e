"""From the archives that data sets are published in to the one format of `prepared`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiqn_core.archives import ArchiveError, digest, named
from aiqn_core.arrays import SUFFIXES, read_arrays
from aiqn_core.config import BUNDLED_DATA
from aiqn_core.folders import folder_layout, read_folder
from aiqn_core.idx import read_idx, verify_idx
from aiqn_core.pictures import Chunk
from aiqn_core.pictures import PrepareError as PrepareError
from aiqn_core.prepared import NAME, PUBLISHED, PreparedError, prepared_folder, read_prepared, writing
from aiqn_core.readers import read_celeba, read_cifar10, read_imagenet32
from aiqn_core.unpickle import UnpickleError

Progress = Callable[[str, int, int | None], None]  # what is done, images so far, and of how many where that is known


@dataclass(frozen=True)
class Dataset:
    """What is known of a published data set."""

    read: Callable[[Path, int | None], Iterator[Chunk]]
    where: str  # what people fetch, and from where
    counts: tuple[tuple[int, int], ...] = ()  # training and test images of each form as published
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    shuffle: bool = False
    checksums: dict[str, str] = field(default_factory=dict)  # of files by their published names: MD5 or SHA-256
    cite: str = ""


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
    dataset = DATASETS.get(name, FOLDER)
    if size is not None and dataset is not FOLDER:
        raise PrepareError(f"size: saw {size}, but {name} has its own size; leave it out")
    if channels is not None and (dataset is not FOLDER or channels not in (1, 3)):
        raise PrepareError(f"channels: saw {channels}, expected 1 or 3 for images of your own; else leave it out")
    if dataset is FOLDER and source.suffix in SUFFIXES and size is not None:
        raise PrepareError(f"size: saw {size}, but images in an array keep their size; leave it out")
    if name in BUNDLED_DATA:
        raise PrepareError(f"saw the name {name!r}, which is bundled and needs no preparing; choose another name")
    if not force and folder.exists():
        return _existing(name, folder)
    if not source.exists():
        raise PrepareError(f"{source}: no such file or folder; {name} is read from {dataset.where}")
    total = sum(dataset.counts[0]) if dataset.counts else None
    progress("checking", 0, None)
    try:
        verified = [] if unverified else _verify(source, dataset)
        own_arrays = dataset is FOLDER and source.suffix in SUFFIXES
        layout = folder_layout(source, channels) if dataset is FOLDER and not own_arrays else None
        notes: list[str] = [] if layout is None else layout.notes
        about = {
            "name": name,
            "source": source.name,
            "unverified": unverified,
            "verified": verified,
            "cite": dataset.cite,
            "classes": dataset.classes if layout is None else layout.classes,
            "notes": notes,
        }
        with writing(folder, about, shuffle=dataset.shuffle) as writer:
            done = 0
            if own_arrays:
                chunks = read_arrays(source, channels, notes)
            else:
                chunks = dataset.read(source, size) if layout is None else read_folder(source, size, layout)
            for chunk in chunks:
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


def _complete(name: str, source: Path, dataset: Dataset, found: dict[str, int], unverified: bool) -> None:
    seen = (found.get("train", 0), found.get("test", 0))
    if not all(seen):
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images; {name} is read from {dataset.where}"
        )
    if dataset.counts and not unverified and seen not in dataset.counts:
        expected = ", or ".join(f"{train} and {test}" for train, test in dataset.counts)
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images, expected {expected}: a part is missing. "
            "Complete it, or take it knowingly with --unverified"
        )


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FOLDER = Dataset(
    lambda source, size: read_folder(source, size, folder_layout(source)),
    "a folder or archive with <class>/<image> files",
    shuffle=True,
)
DATASETS = {
    "cifar10": Dataset(
        read_cifar10,
        PUBLISHED["cifar10"],
        counts=((50_000, 10_000),),
        shape=(3, 32, 32),
        classes=CIFAR_CLASSES,
        checksums={
            "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        cite="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "mnist": Dataset(
        read_idx,
        PUBLISHED["mnist"],
        counts=((60_000, 10_000),),
        shape=(1, 28, 28),
        classes=tuple("0123456789"),
        shuffle=True,
        checksums={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },  # of the unpacked files
        cite="LeCun et al., Gradient-based learning applied to document recognition, 1998",
    ),
    "fashion-mnist": Dataset(
        read_idx,
        PUBLISHED["fashion-mnist"],
        counts=((60_000, 10_000),),
        shape=(1, 28, 28),
        classes=FASHION_CLASSES,
        shuffle=True,
        checksums={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },  # of the unpacked files
        cite="Xiao et al., Fashion-MNIST: a Novel Image Dataset for Benchmarking, 2017",
    ),
    "imagenet32": Dataset(
        read_imagenet32,
        PUBLISHED["imagenet32"],
        counts=((1_281_167, 50_000), (1_281_149, 49_999)),  # downsampled ImageNet, small ImageNet
        shape=(3, 32, 32),
        shuffle=True,
        checksums={
            "train_32x32.tar": "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
            "valid_32x32.tar": "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7",
            "Imagenet32_train_npz.zip": "94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            "Imagenet32_val_npz.zip": "013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
        },
        cite="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015; non-commercial use only",
    ),
    "celeba": Dataset(
        read_celeba,
        PUBLISHED["celeba"],
        counts=((162_770, 39_829),),
        shape=(3, 64, 64),
        checksums={
            "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
            "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
        },
        cite="Liu et al., Deep Learning Face Attributes in the Wild, 2015; non-commercial research only",
    ),
}
