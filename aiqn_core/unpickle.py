"""Read the pickles that data sets are published in, without letting them run anything."""

import codecs
import importlib
import io
import pickle
from typing import Any

CONSTRUCTORS = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
ALLOWED = {
    *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in CONSTRUCTORS),
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # how Python 3 writes bytes for Python 2
}


class UnpickleError(ValueError):
    """A pickle that is damaged, or that asks for more than arrays."""


class _Unpickler(pickle.Unpickler):
    """Finds NumPy's array constructors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise UnpickleError(
                f"asks to call {module}.{name}, which has no place in a data set: it may be malicious, do not use it"
            )
        if name == "encode":
            return _latin1
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    # only this codec: others decompress, or run code that was registered
    if encoding != "latin1":
        raise UnpickleError(f"asks for the codec {encoding!r}, expected 'latin1'")
    return codecs.encode(text, "latin1")


def read_pickle(content: bytes) -> Any:
    """The value of a pickle of plain values and arrays; text of Python 2 is given as bytes.

    Raises UnpickleError for damaged content and for every global but NumPy's array constructors.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UnpickleError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UnpickleError(f"is no complete pickle ({type(error).__name__}: {error})") from None
