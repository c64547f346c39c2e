"""Your own images in whatever form they are: image files by class, Parquet files, arrays of NumPy or of IDX."""

from collections import Counter
from pathlib import Path

from aiqn_core.archives import members
from aiqn_core.arrays import array_images, is_array
from aiqn_core.folders import SUFFIXES, folder_layout, read_folder
from aiqn_core.pictures import PrepareError, is_image
from aiqn_core.splits import Own
from aiqn_core.tables import is_table, table_images

PICTURES, TABLES, ARRAYS = "image files", "Parquet files", "arrays"
EXPECTED = f"files ending in {SUFFIXES}, .npy, .npz or .parquet, or IDX files"


def own_images(source: Path, size: int | None = None, channels: int | None = None) -> Own:
    """The images of a source with their splits and classes; raises PrepareError where there are none.

    `size` crops and resizes them to a square; `channels` is 1 or 3, else 1 where no image has a colour.
    """
    form = form_of(source)
    if form == TABLES:
        return table_images(source, size, channels)
    if form == ARRAYS:
        if size is not None:
            raise PrepareError(f"size: saw {size}, but images in an array keep their size; leave it out")
        return array_images(source, channels)
    layout = folder_layout(source, channels)
    return Own(read_folder(source, size, layout), layout.classes, [], layout.notes)


def form_of(source: Path) -> str:
    """The one form of the images of a source; arrays beside image files are taken for something else, and skipped."""
    kinds = {PICTURES: is_image, TABLES: is_table, ARRAYS: is_array}
    found = Counter(form for member in members(source) for form, is_one in kinds.items() if is_one(member.base))
    if found[TABLES] and len(found) > 1:
        seen = " and ".join(f"{count} {form}" for form, count in found.items())
        raise PrepareError(f"{source}: saw {seen}, expected one form; give the folder of one of them")
    return next((form for form in kinds if found[form]), PICTURES)
