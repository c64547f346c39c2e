"""The published data sets that can be prepared, and what is known of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aiqn_core.cifar import cifar100_classes, read_cifar10, read_cifar100
from aiqn_core.idx import read_idx
from aiqn_core.pictures import Chunk
from aiqn_core.prepared import PUBLISHED
from aiqn_core.readers import read_celeba, read_imagenet


@dataclass(frozen=True)
class Dataset:
    """What is known of a published data set."""

    read: Callable[[Path], Iterator[Chunk]]
    where: str  # what people fetch, and from where
    counts: tuple[tuple[int, int], ...] = ()  # training and test images of each form as published
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    class_names: Callable[[Path], list[str]] | None = None  # where they are read from the source
    shuffle: bool = False
    checksums: dict[str, str] = field(default_factory=dict)  # of files by their published names: MD5 or SHA-256
    cite: str = ""


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def _imagenet(side: int, checksums: dict[str, str]) -> Dataset:
    """ImageNet in small, both as downsampled ImageNet and as small ImageNet publish it."""
    return Dataset(
        partial(read_imagenet, side=side),
        PUBLISHED[f"imagenet{side}"],
        counts=((1_281_167, 50_000), (1_281_149, 49_999)),  # downsampled ImageNet, small ImageNet
        shape=(3, side, side),
        shuffle=True,
        checksums=checksums,
        cite="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015; non-commercial use only",
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
    "cifar100": Dataset(
        read_cifar100,
        PUBLISHED["cifar100"],
        counts=((50_000, 10_000),),
        shape=(3, 32, 32),
        class_names=cifar100_classes,
        checksums={
            "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
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
    "imagenet32": _imagenet(
        32,
        {
            "train_32x32.tar": "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
            "valid_32x32.tar": "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7",
            "Imagenet32_train_npz.zip": "94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            "Imagenet32_val_npz.zip": "013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
        },
    ),
    "imagenet64": _imagenet(
        64,
        {
            "train_64x64.tar": "e2a2c1947a748d0d256e98e6d82800d855441dc9e4de2e71a773f1324c4524d7",
            "valid_64x64.tar": "eeac03ec4f585baf871d2b4cb9c974bfe345e74878a74e5820fe6eb1041629cd",
            "Imagenet64_train_part1_npz.zip": "9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1",
            "Imagenet64_train_part2_npz.zip": "9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30",
            "Imagenet64_val_npz.zip": "e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8",
        },
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
