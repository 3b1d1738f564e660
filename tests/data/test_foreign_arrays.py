"""Untrusted files: arrays equal those that numpy reads, any other content is refused."""

import codecs
import collections
import pickle
import struct
import warnings

import numpy as np
import pytest

from unsilent.data.foreign_arrays import read_array
from unsilent.errors import DataError

RNG = np.random.default_rng(0)
PLAIN = RNG.standard_normal((5, 7)).astype(np.float32)
ARRAYS = {
    "float32": PLAIN,
    "float16": PLAIN.astype(np.float16),
    "float64": PLAIN.astype(np.float64),
    "Fortran order": np.asfortranarray(PLAIN),
    "a view": np.repeat(PLAIN, 2, axis=1)[::2, ::3],
    "big endian": PLAIN.astype(">f4"),
    "bytes": RNG.integers(0, 256, (3, 4), dtype=np.uint8),
    "int64": np.array([-1, 2**40]),
    "three axes": PLAIN.reshape(1, 5, 7),
    "scalar": np.array(3.5),
}


def put(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_each_protocol(tmp_path, array, protocol):
    read = read_array(put(tmp_path / "a.pkl", array, protocol))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.flags.writeable


@pytest.mark.parametrize("array", [array for array in ARRAYS.values() if array.ndim], ids=[key for key in ARRAYS if ARRAYS[key].ndim])
def test_npy_arrays(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")
    assert type(read) is np.ndarray


def python2_pickle(array):
    """As Python 2 writes it with protocol 2: text of bytes, and long integers for the shape."""
    rows, columns = (bytes([0x8A, 1, length]) for length in array.shape)
    content = array.tobytes()
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01"
        + rows
        + columns
        + b"\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(content))
        + content
        + b"tb."
    )


def test_pickles_of_python_2(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(python2_pickle(PLAIN))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy deprecates 0 for False
        np.testing.assert_array_equal(pickle.loads(path.read_bytes(), encoding="bytes"), PLAIN)
    np.testing.assert_array_equal(read_array(path), PLAIN)


def test_names_of_numpy_1_and_2(tmp_path):
    new = pickle.dumps(PLAIN, 3)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for data in (old, old.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")):
        (tmp_path / "a.pkl").write_bytes(data)
        np.testing.assert_array_equal(read_array(tmp_path / "a.pkl"), PLAIN)


class Calls:
    """Pickles to a function call, as an attack does."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Subarray(np.ndarray):
    """Not a plain array."""


def touch(path):
    """Side effect of an attack, which the test looks for."""
    open(path, "w").close()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_attacks_are_named_and_never_executed(tmp_path, protocol):
    import os

    mark = tmp_path / "was here"
    attacks = {
        r"(posix|nt)\.system": Calls(os.system, f"touch '{mark}'"),
        r"(builtins|__builtin__)\.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        r"touch": Calls(touch, str(mark)),
        r"_codecs\.decode": Calls(codecs.decode, "756e", "hex"),
    }
    for name, attack in attacks.items():
        for hidden in (attack, (PLAIN, attack), Calls(np.ndarray, attack)):
            with pytest.raises(DataError, match=rf"a\.pkl was not read, because it refers to '.*{name}'; a single array"):
                read_array(put(tmp_path / "a.pkl", hidden, protocol))
    assert not mark.exists()


def test_attacks_succeed_with_the_real_unpickler(tmp_path):
    """Shows that the test above can fail."""
    pickle.loads(pickle.dumps(Calls(open, str(tmp_path / "was here"), "w"))).close()
    assert (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1, None], dtype=object), "contains values of type 'O8'"),
        (np.array([("a", 1)], dtype=[("name", "S1"), ("n", "i4")]), "contains values of type 'V5'"),
        (np.array(["2021"], dtype="M8[Y]"), "contains values of type 'M8'"),
        (np.array(["text"]), "contains values of type 'U4'"),
        (PLAIN.astype(complex), "contains values of type 'c16'"),
        (PLAIN.view(Subarray), "refers to '.*Subarray'"),
        (np.float32(1), r"refers to 'numpy\.(_core|core)\.multiarray\.scalar'"),
        ([PLAIN], "uses the pickle opcode EMPTY_LIST"),
        ({"features": PLAIN}, "uses the pickle opcode EMPTY_DICT"),
        (1.5, "uses the pickle opcode BINFLOAT"),
        (collections.OrderedDict(), "refers to 'collections.OrderedDict'"),
        ((PLAIN, PLAIN), "contains something other than one array"),
        ("text", "contains something other than one array"),
        (np.dtype("f4"), "contains something other than one array"),
        (np.ndarray, "contains something other than one array"),
        (Calls(codecs.encode, "text", "rot13"), "calls 'encode' with unexpected arguments"),
        (Calls(np.ndarray, (1000, 1000)), "calls 'ndarray' with unexpected arguments"),
        (Calls(np.dtype, "f4"), "calls 'dtype' with unexpected arguments"),
    ],
    ids=str,
)
def test_values_other_than_one_array_are_refused(tmp_path, value, said):
    with pytest.raises(DataError, match=f"because it {said}; a single array of numbers is expected"):
        read_array(put(tmp_path / "a.pkl", value))


def test_other_protocols_are_refused(tmp_path):
    with pytest.raises(DataError, match="uses the pickle opcode PUT"):
        read_array(put(tmp_path / "a.pkl", PLAIN, 0))
    with pytest.raises(DataError, match=r"refers to 'numpy.*_frombuffer'"):
        read_array(put(tmp_path / "a.pkl", PLAIN, 5))


@pytest.mark.parametrize("state", [(1, (5, 7), "more"), (2, (5, 7), np.dtype("f4"), False, b"")])
def test_other_array_states_are_refused(tmp_path, state):
    data = pickle.dumps(PLAIN, 3)
    start = data.index(b"R") + 1  # the array made, its state is next
    other = pickle.dumps(state, 3)[2:-1]
    (tmp_path / "a.pkl").write_bytes(data[:start] + other + b"b.")
    with pytest.raises(DataError, match="has an array state that NumPy does not write"):
        read_array(tmp_path / "a.pkl")


def test_calls_of_values_that_are_not_functions_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03K\x01)R.")
    with pytest.raises(DataError, match="calls an object that is not a function"):
        read_array(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_truncated_files_are_refused(tmp_path, protocol):
    data = pickle.dumps(PLAIN, protocol)
    for length in range(len(data)):
        (tmp_path / "a.pkl").write_bytes(data[:length])
        with pytest.raises(DataError, match="is truncated or damaged"):
            read_array(tmp_path / "a.pkl")


def test_contents_of_another_length_than_the_shape_are_refused(tmp_path):
    data = python2_pickle(PLAIN)
    for found, shape in ((b"\x8a\x01\x05\x8a\x01\x07", b"\x8a\x01\x05\x8a\x01\x08"), (b"\x8a\x01\x05", b"\x8a\x01\x04")):
        (tmp_path / "a.pkl").write_bytes(data.replace(found, shape))
        with pytest.raises(DataError, match=r"declares . x . numbers of 4 bytes, but contains 140 bytes"):
            read_array(tmp_path / "a.pkl")


@pytest.mark.parametrize("length", [b"\x8a\x01\xff", b"\x88"], ids=["negative", "True"])
def test_invalid_lengths_are_refused(tmp_path, length):
    (tmp_path / "a.pkl").write_bytes(python2_pickle(PLAIN).replace(b"\x8a\x01\x05", length))
    with pytest.raises(DataError, match="is truncated or damaged"):
        read_array(tmp_path / "a.pkl")


def test_a_second_pickle_behind_the_first_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(PLAIN) + b"12345")
    with pytest.raises(DataError, match="has 5 bytes after its end"):
        read_array(tmp_path / "a.pkl")


def test_absurd_shapes_take_no_memory(tmp_path):
    empty = python2_pickle(PLAIN[:0])
    huge = b"\x8a\x09" + b"\xff" * 8 + b"\x00"
    (tmp_path / "a.pkl").write_bytes(empty.replace(b"\x8a\x01\x07", huge))
    with pytest.raises(DataError, match="is truncated or damaged"):
        read_array(tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(python2_pickle(PLAIN).replace(b"\x8a\x01\x07", huge))
    with pytest.raises(DataError, match="declares 5 x 18446744073709551615 numbers"):
        read_array(tmp_path / "b.pkl")


@pytest.mark.parametrize("make", [lambda: pickle.dumps(PLAIN, 2), lambda: pickle.dumps(PLAIN, 4), lambda: python2_pickle(PLAIN)])
def test_any_damage_gives_numbers_or_one_sentence(tmp_path, make):
    """Bytes changed at random: never another exception, and never anything but an array."""
    rng = np.random.default_rng(1)
    original, path, refused = make(), tmp_path / "a.pkl", 0
    for _ in range(300):
        data = bytearray(original)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text escapes, which pickletools decodes before it names the instruction
            try:
                assert isinstance(read_array(path), np.ndarray)
            except DataError:
                refused += 1
    assert refused > 60


def test_invalid_npy_files_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, PLAIN)
    data = path.read_bytes()
    for length in (0, 3, 40, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"a\.npy was not read, because it is truncated, damaged or not a \.npy file"):
            read_array(path)
    path.write_bytes(data + b"12")
    with pytest.raises(DataError, match="has 2 bytes after its end"):
        read_array(path)
    path.write_bytes(data.replace(b"(5, 7)", b"(5,7**9)"))
    with pytest.raises(DataError, match="is truncated, damaged"):
        read_array(path)
    path.write_bytes(data.replace(b"(5, 7), }  ", b"(55555, 7),}"))
    with pytest.raises(DataError, match="is truncated, damaged"):
        read_array(path)
    np.save(path, PLAIN.astype(complex))
    with pytest.raises(DataError, match="contains values of type 'complex128'"):
        read_array(path)


@pytest.mark.parametrize("content", [pickle.dumps(PLAIN), pickle.dumps(Calls(open, "was here", "w"))])
def test_a_pickle_named_npy_is_not_unpickled(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"not a \.npy file"):
        read_array(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([Calls(open, "was here", "w")], dtype=object))
    with pytest.raises(DataError, match=r"not a \.npy file"):
        read_array(tmp_path / "b.npy")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("name", ["none.pkl", "none.npy"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} cannot be read: No such file"):
        read_array(tmp_path / name)
