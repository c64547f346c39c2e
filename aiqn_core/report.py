"""How a command tells what it has learned: `report(200, samples=images, loss=1.2)`. This file may be copied."""

import json
import os
import sys


def report(step, samples=None, **numbers):  # type: ignore[no-untyped-def]  # a copy of it needs no types
    """Tell the numbers of a step, and samples where they are wanted: an array, or the path of a .npy file.

    Images are uint8 (N, C, H, W), vectors float (N, D). Outside of a sweep the line is printed.
    """
    line = {"step": int(step), **{name: float(value) for name, value in numbers.items()}}
    if samples is not None and not isinstance(samples, (str, os.PathLike)):
        import numpy

        os.makedirs("reported", exist_ok=True)  # noqa: PTH103
        samples, array = os.path.join("reported", f"{step}.npy"), numpy.asarray(samples)  # noqa: PTH118
        numpy.save(samples, array)
    if samples is not None:
        line["samples"] = os.path.abspath(samples)  # noqa: PTH100
    text = json.dumps(line) + "\n"
    if "AIQN_REPORT" not in os.environ:
        sys.stdout.write(text)
        return
    with open(os.environ["AIQN_REPORT"], "a") as file:  # noqa: PTH123
        file.write(text)
