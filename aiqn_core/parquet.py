"""Parquet files with a column of image files, as data sets are published in today."""

import contextlib
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aiqn_core.archives import Member
from aiqn_core.pictures import CHUNK, PrepareError, decode, stack

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGES = ("image", "img", "images", "picture", "pixel_values", "png", "jpg", "jpeg", "webp", "bytes", "content")
LABELS = ("label", "labels", "fine_label", "class", "class_label", "target", "category", "y")


class Columns(NamedTuple):
    """Which columns are used, and which are not."""

    image: str
    label: str | None
    unused: list[str]


def read_table(
    member: Member, labels: tuple[str, ...] = LABELS, channels: int = 3, size: int | None = None
) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """Images (n, C, H, W) uint8 and their labels as they are, None without a column of `labels`, in parts of a file."""
    with opened(member) as file:
        columns = find_columns(member.name, file.schema_arrow, labels)
        begin = 0
        for batch in file.iter_batches(CHUNK, columns=[name for name in columns[:2] if name is not None]):
            cells = batch.column(columns.image).to_pylist()
            named = [(f"{member.name}, row {row}", cell) for row, cell in enumerate(cells, begin)]
            images = [decode(name, image_bytes(name, cell), size=size, channels=channels) for name, cell in named]
            begin += len(images)
            if images:
                given = [None] * len(images) if columns.label is None else batch.column(columns.label).to_pylist()
                yield stack(member.name, images), given


@contextlib.contextmanager
def opened(member: Member) -> Iterator["pq.ParquetFile"]:
    """A Parquet file; whatever pyarrow raises inside on damaged bytes is one PrepareError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(member.read())) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise PrepareError(f"{member.name}: is no complete Parquet file ({error})") from None


def find_columns(name: str, schema: "pa.Schema", labels: tuple[str, ...] = LABELS) -> Columns:
    """The column with images, by its name or as the only one that may hold them, and the first one of `labels`."""
    names: list[str] = schema.names
    holding = [one for one in names if _holds_images(schema.field(one).type)]
    image = next((one for one in IMAGES if one in names), holding[0] if len(holding) == 1 else None)
    if image is None:
        seen = ", ".join(names)
        raise PrepareError(f"{name}: saw columns {seen}, expected one with images: bytes, or {{bytes, path}}")
    label = next((one for one in labels if one in names and one != image), None)
    return Columns(image, label, [one for one in names if one not in (image, label)])


def _holds_images(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def image_bytes(name: str, cell: Any) -> bytes:
    """The image file in a cell, which holds it alone or beside its path."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise PrepareError(f"{name}: saw {type(content).__name__}, expected the bytes of a PNG")
    return content


def named_classes(member: Member, labels: tuple[str, ...] = LABELS) -> list[str]:
    """The names of the classes that Hugging Face's `datasets` writes beside a table; empty where there are none."""
    with opened(member) as file:
        label = find_columns(member.name, file.schema_arrow, labels).label
        told = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(told)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
