import codecs
import contextlib
import os
import pickle

import numpy as np
import pytest

from aiqn_core.unpickle import UnpickleError, read_pickle


class Calls:
    """Pickled, it asks for a function to be called with arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_come_back(protocol):
    array = np.arange(7 * 11, dtype=np.uint8).reshape(7, 11)
    found = read_pickle(pickle.dumps({"data": array, "labels": [3, 1, 4], "name": "x"}, protocol=protocol))
    assert found.keys() == {"data", "labels", "name"}
    assert np.array_equal(found["data"], array)
    assert found["labels"] == [3, 1, 4]


def test_a_pickle_of_python_2_gives_bytes():
    """As CIFAR-10 was written: text by opcode U, the module by its old name."""
    content = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x03\x85q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\r"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x03\x05\x07\xffq\x0ftq\x10bU\x06labelsq\x11]q\x12(K\x02K\x09eu."
    )
    found = read_pickle(content)
    assert found[b"labels"] == [2, 9]
    assert found[b"data"].tolist() == [5, 7, 255]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_would_run_code_is_refused_and_does_not_run(tmp_path, protocol):
    trace = tmp_path / "ran"
    for call in (
        Calls(os.system, f"touch {trace}"),
        Calls(exec, f"open({str(trace)!r}, 'w')"),
        Calls(getattr, "x", "upper"),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(np.load, str(trace)),
    ):
        with pytest.raises(UnpickleError, match="malicious"):
            read_pickle(pickle.dumps({"data": call}, protocol=protocol))
    assert not trace.exists()


class Forged:
    """Pickled, a dtype that claims other flags than it has, as no library would write it."""

    def __init__(self, code, flags):
        self.code, self.flags = code, flags

    def __reduce__(self):
        return np.dtype, (self.code, False, True), (3, "|", None, None, None, -1, -1, self.flags)


def array_of(code, flags, content, shape=(1,)):
    return pickle.dumps(Calls(np._core.numeric._frombuffer, content, Forged(code, flags), shape, "C"))


@pytest.mark.parametrize(
    ("code", "flags", "message"),
    [
        ("O", 0, "asks for an array of 'O', expected numbers"),  # NumPy takes the bytes for addresses of objects
        ("V8", 63, "asks for an array of 'V8'"),
        ("M8", 0, "asks for an array of 'M8'"),
    ],
)
def test_forged_types_are_refused(code, flags, message):
    with pytest.raises(UnpickleError, match=message):
        read_pickle(array_of(code, flags, b"\x41" * 8))


def test_the_flags_of_a_type_are_not_used():
    found = read_pickle(array_of("u1", 63, b"ABC", shape=(3,)))  # 63: hold references, free them
    assert found.tolist() == [65, 66, 67]
    assert not found.dtype.hasobject


@pytest.mark.parametrize("shape", [(2,), (4,), (-3, 2), (2**40, 2**40)])
def test_a_shape_that_its_bytes_do_not_fill(shape):
    with pytest.raises(UnpickleError, match="no complete pickle"):
        read_pickle(array_of("u1", 0, b"ABC", shape))


def test_byte_order_is_kept():
    found = read_pickle(pickle.dumps(np.array([1, 258], dtype=">i4"), protocol=2))
    assert found.tolist() == [1, 258]
    assert read_pickle(pickle.dumps(np.float64(0.1), protocol=2)) == 0.1
    turned = np.arange(15, dtype=np.int16).reshape(3, 5).T
    assert np.array_equal(read_pickle(pickle.dumps(turned, protocol=2)), turned)


@pytest.mark.parametrize("content", [b"cnumpy\nndarray\n(I9\ntR.", b"cnumpy\ndtype\n(]tR.", b"cnumpy\ndtype\n)\x81."])
def test_constructors_are_of_no_use_alone(content):
    with contextlib.suppress(UnpickleError):
        assert not isinstance(read_pickle(content), np.ndarray | np.dtype)


def test_only_latin1_is_decoded():
    with pytest.raises(UnpickleError, match="'zlib'"):
        read_pickle(pickle.dumps(Calls(codecs.encode, "x", "zlib")))


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_pickle(cut):
    with pytest.raises(UnpickleError, match="no complete pickle"):
        read_pickle(pickle.dumps(np.arange(50))[:cut])
