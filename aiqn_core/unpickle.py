"""Read the pickles that data sets are published in, without letting them run anything.

Nothing of NumPy is called by a pickle. Its constructors are replaced by stand-ins that check what they are told:
NumPy's own dtype takes forged flags, which make it follow bytes of the file as addresses.
"""

import codecs
import io
import pickle
from typing import Any

import numpy as np

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class UnpickleError(ValueError):
    """A pickle that is damaged, or that asks for more than arrays of numbers."""


class _Type:
    """For numpy.dtype: a type of numbers and its byte order; whatever else a pickle says of it is not used."""

    def __init__(self, code: Any, align: Any = None, copy: Any = None) -> None:
        self.code, self.order = _text(code), "="
        if self.code not in NUMBERS:
            raise UnpickleError(f"asks for an array of {self.code[:20]!r}, expected numbers: {', '.join(NUMBERS)}")

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def array(self, content: Any, shape: Any, order: Any) -> np.ndarray:
        """The numbers in some bytes; NumPy itself compares their count with the shape."""
        kind = np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]
        return np.frombuffer(content, kind).reshape(shape, order=order)


class _Array:
    """For an array that `_reconstruct` makes empty and that is filled by its state."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.value = kind.array(content, shape, "F" if fortran else "C")


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _frombuffer(content: Any, kind: _Type, shape: Any, order: Any) -> np.ndarray:
    return kind.array(content, shape, _text(order))


def _scalar(kind: _Type, content: Any) -> Any:
    return kind.array(content, (), "C")[()]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    # only this codec: others decompress, or run code that was registered
    if _text(encoding) != "latin1":
        raise UnpickleError(f"asks for the codec {encoding[:20]!r}, expected 'latin1'")
    return codecs.encode(text, "latin1")


STAND_INS = {
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
    "numpy.ndarray": "numpy.ndarray",  # only ever an argument of _reconstruct, and not to be called
    "numpy.dtype": _Type,
    "_codecs.encode": _latin1,  # how Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    """Finds the stand-ins of NumPy's array constructors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in STAND_INS:
            raise UnpickleError(
                f"asks to call {module}.{name}, which has no place in a data set: it may be malicious, do not use it"
            )
        return STAND_INS[f"{module}.{name}"]


def read_pickle(content: bytes) -> Any:
    """The value of a pickle: a plain value, an array of numbers, or a mapping of these; text of Python 2 as bytes.

    Arrays are read-only views of what was unpickled. Raises UnpickleError for damaged content and for every global but
    NumPy's array constructors.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UnpickleError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UnpickleError(f"is no complete pickle ({type(error).__name__}: {error})") from None
    # No deeper: a hostile pickle may nest lists that hold each other twice, and end only after 2^n of them.
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else _plain(value)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _text(value: Any) -> str:
    if not isinstance(value, bytes | str):
        raise UnpickleError(f"describes an array by a {type(value).__name__}, expected text")
    return value.decode("latin1") if isinstance(value, bytes) else value
