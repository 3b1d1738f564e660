"""Reads arrays from untrusted files without executing anything in them.

Unpickling can run arbitrary code. The released features are pickles of one array each, which need a dozen opcodes and five global names.
These are interpreted here without calling anything; any other opcode or name is an error.
"""

import pickletools
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unsilent.errors import DataError

_NAMES = {  # global name in the pickle → our name
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),  # the last two are bytes of Python 2, decoded as Latin-1
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_array(path: Path) -> Shaped[np.ndarray, "*shape"]:
    """Read a file with one numeric array: `.npy`, or else a pickle of protocol 2 to 4, including those of Python 2.

    Args:
        path: untrusted file; nothing in it is executed.

    Returns:
        A writable integer or floating-point array in native byte order.

    Raises:
        DataError: if the file is missing, truncated or damaged, or contains anything but one integer or floating-point array.
    """
    try:
        return _from_npy(path) if path.suffix == ".npy" else _from_pickle(path.read_bytes())
    except _RefusedError as error:
        raise DataError(f"{path} was not read, because it {error}; a single array of numbers is expected.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape for messages: `80 x 848`."""
    return " x ".join(map(str, shape)) or "one number"


class _RefusedError(Exception):
    """A file is not a single array; the message continues a sentence that ends with `it`."""


@dataclass(frozen=True)
class _Named:
    """One of the five global names; it is compared, but never called."""

    name: str


@dataclass(eq=False)
class _Dtype:
    """A dtype under construction."""

    code: str
    order: str = "="


@dataclass(eq=False)
class _Array:
    """An array under construction."""

    values: np.ndarray | None = None


def _from_npy(path: Path) -> Shaped[np.ndarray, "*shape"]:
    try:
        # mapped, so that a forged shape fails before memory is allocated
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception:  # a damaged header reaches Python's tokenizer, which raises many types
        raise _RefusedError("is truncated, damaged or not a .npy file") from None
    if mapped.dtype.kind not in "fiu":
        raise _RefusedError(f"contains values of type {str(mapped.dtype)[:80]!r}")
    if left := path.stat().st_size - mapped.offset - mapped.nbytes:
        raise _RefusedError(f"has {left} bytes after its end")
    return np.array(mapped, dtype=mapped.dtype.newbyteorder("="))


def _from_pickle(data: bytes) -> Shaped[np.ndarray, "*shape"]:
    try:
        return _interpret(data)
    except (ValueError, LookupError, OverflowError):  # truncated file, empty stack, forged shape
        raise _RefusedError("is truncated or damaged") from None


def _interpret(data: bytes) -> Shaped[np.ndarray, "*shape"]:
    """Interpret the opcodes with an unpickler's stack and memo, without calling the named functions."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for instruction, argument, position in pickletools.genops(data):
        name = instruction.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(_pop(stack, len(stack) - marks.pop()))
        elif name in _SHORT_TUPLES:
            stack.append(_pop(stack, _SHORT_TUPLES[name]))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_lookup(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = _pop(stack, 2)
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise ValueError
            stack.append(_lookup(f"{module} {attribute}"))
        elif name == "REDUCE":
            stack.append(_call(*_pop(stack, 2)))
        elif name == "BUILD":
            (state,) = _pop(stack, 1)
            _build(stack[-1], state)
        elif name == "STOP":
            return _only_array(stack, n_left=len(data) - position - 1)
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"uses the pickle opcode {name}")
    raise ValueError


def _pop(stack: list[Any], count: int) -> tuple[Any, ...]:
    if not 0 <= count <= len(stack):
        raise IndexError
    items = tuple(stack[len(stack) - count :])
    del stack[len(stack) - count :]
    return items


def _lookup(name: str) -> _Named:
    if name not in _NAMES:
        raise _RefusedError(f"refers to {name.replace(' ', '.')[:80]!r}")
    return _Named(_NAMES[name])


def _call(function: Any, arguments: Any) -> Any:
    """Result of one of the three functions in NumPy's pickles, for the arguments that NumPy writes."""
    match function, arguments:
        case _Named("reconstruct"), (_Named("ndarray"), (0,), "b" | b"b"):
            return _Array()
        case _Named("dtype"), (str() | bytes() as code, 0, 1):
            code = code.decode("latin-1") if isinstance(code, bytes) else code
            if code not in _NUMBERS:
                raise _RefusedError(f"contains values of type {code[:80]!r}")
            return _Dtype(code)
        case _Named("encode"), (str() as text, "latin1"):  # bytes in protocol 2 of Python 3
            return text.encode("latin-1")
        case _Named(name), _:
            raise _RefusedError(f"calls {name!r} with unexpected arguments")
        case _:
            raise _RefusedError("calls an object that is not a function")


def _build(target: Any, state: Any) -> None:
    match target, state:
        case _Dtype(), (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
            target.order = order
        case _Array(), (1, tuple() as shape, _Dtype() as dtype, bool() | 0 | 1 as columns_first, bytes() | str() as content):
            if not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError
            content = content.encode("latin-1") if isinstance(content, str) else content
            wanted = prod(shape) * int(dtype.code[1])
            if len(content) != wanted:
                promised = f"{format_shape(shape)[:80]} numbers of {dtype.code[1]} bytes"
                raise _RefusedError(f"declares {promised}, but contains {len(content)} bytes")
            values = np.frombuffer(content, dtype.order + dtype.code).reshape(shape, order="F" if columns_first else "C")
            target.values = values.astype(values.dtype.newbyteorder("="))
        case _:
            raise _RefusedError("has an array state that NumPy does not write")


def _only_array(stack: list[Any], n_left: int) -> Shaped[np.ndarray, "*shape"]:
    if n_left:
        raise _RefusedError(f"has {n_left} bytes after its end")
    match stack:
        case [_Array(values=np.ndarray() as values)]:
            return values
        case _:
            raise _RefusedError("contains something other than one array")
