"""Values of a state as bytes that run nothing when they are read: MessagePack, with arrays beside it.

What is read becomes plain values, NumPy arrays and the records named here, whatever the bytes say; there is no name in
them that is imported or called. Types are kept: a tuple is not a list afterwards, nor
a NumPy number a float; only a bytearray becomes bytes, and a time zone its offset.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from rlscale.data.prompts.adaptive import Observation
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.rollout.engines.generation import Generation

_RECORDS: tuple[type[Any], ...] = (Prompt, Sample, Segment, Group, Generation, Observation)
"""What is written field by field. A place in this list is part of the format."""
_MICROSECOND = datetime.timedelta(microseconds=1)
_TEXTS: tuple[tuple[type[Any], Callable[[Any], str], Callable[[str], Any]], ...] = (
    (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    (Decimal, str, Decimal),
    (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    (datetime.timedelta, lambda span: str(span // _MICROSECOND), lambda text: int(text) * _MICROSECOND),
)
"""What is written as text: rows of Parquet hold them. A place in this list is part of the format."""
_COLLECTIONS: tuple[type[Any], ...] = (tuple, set, frozenset)
"""What is written as a list. A place in this list is part of the format."""
_OF_PANDAS = ("Timestamp", "Timedelta")
"""What Parquet's times with nanoseconds become, written as text. A place in this list is part of the format."""
_DEEPEST = 64
"""Levels of tuples, sets and records inside each other: reading more would exhaust the stack of the interpreter."""
_NUMBERS = "biufcSUmM"
"""Kinds of arrays whose bytes are all that there is to them."""
_ARRAY, _SCALAR, _INTEGER = 0, 1, 2
_FIRST_COLLECTION, _FIRST_TEXT, _FIRST_OF_PANDAS, _FIRST_RECORD = 10, 15, 25, 30


_TOO_DEEP = "the state is nested too deeply, or holds itself"


class NotPlain(Exception):
    """A value that has no encoding; the message says where it is and what."""


class Malformed(Exception):
    """Bytes that no `Encoder` of this version wrote."""


class Encoder:
    """Encodes one value. The bytes of its arrays go to `write` at once: a large state is not held twice."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write
        self._written = 0
        self._depth = 0

    def encode(self, value: Any) -> bytes:
        """The value, with references to the arrays that were written. NotPlain for what cannot be encoded."""
        try:
            return self.pack([_fields_of_records(), value])
        except (TypeError, ValueError, RecursionError) as error:
            raise NotPlain(_fault(value) or str(error)) from error

    def pack(self, value: Any) -> bytes:
        """A value without what makes it readable on its own. TypeError or ValueError if it has no encoding."""
        if self._depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        self._depth += 1
        try:
            packed: bytes = msgpack.packb(
                value, default=self._extend, strict_types=True, unicode_errors="surrogatepass"
            )
        finally:
            self._depth -= 1
        return packed

    def _extend(self, value: Any) -> msgpack.ExtType:
        kind: Any = type(value)
        if kind in _RECORDS:
            return msgpack.ExtType(_FIRST_RECORD + _RECORDS.index(kind), self.pack(_values(value)))
        if kind in _COLLECTIONS:
            return msgpack.ExtType(_FIRST_COLLECTION + _COLLECTIONS.index(kind), self.pack(list(value)))
        if kind is np.ndarray and value.dtype.kind in _NUMBERS:
            return msgpack.ExtType(_ARRAY, self.pack(self._put(value)))
        if isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
            return msgpack.ExtType(_SCALAR, self.pack([value.dtype.str, value.tobytes()]))
        if kind is int:  # one of more than 64 bits, as random generators have
            return msgpack.ExtType(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        for number, (of, written, _) in enumerate(_TEXTS):
            if kind is of:
                return msgpack.ExtType(_FIRST_TEXT + number, written(value).encode())
        if kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in _OF_PANDAS:
            return msgpack.ExtType(_FIRST_OF_PANDAS + _OF_PANDAS.index(kind.__name__), value.isoformat().encode())
        raise TypeError(f"a {kind.__name__}")

    def _put(self, array: NDArray[Any]) -> list[Any]:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        place, self._written = self._written, self._written + content.size
        self._write(content.data)
        return [array.dtype.str, list(array.shape), place]


def decode(tree: memoryview, arrays: memoryview) -> Any:
    """The value that was encoded as `tree`, whose arrays were written as `arrays`. Malformed if that is not so."""

    depth = 0

    def unpack(packed: memoryview | bytes) -> Any:
        nonlocal depth
        if depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        depth += 1
        try:
            return msgpack.unpackb(packed, ext_hook=extended, strict_map_key=False, unicode_errors="surrogatepass")
        finally:
            depth -= 1

    def extended(code: int, data: bytes) -> Any:
        if code == _ARRAY:
            dtype, shape, place = unpack(data)
            return _array(dtype, shape, place, arrays)
        if code == _SCALAR:
            dtype, content = unpack(data)
            of = _dtype(dtype)
            return np.frombuffer(content, of, count=1)[0] if of.itemsize else of.type()
        if code == _INTEGER:
            return int.from_bytes(data, "little", signed=True)
        if code >= _FIRST_RECORD:
            return _RECORDS[code - _FIRST_RECORD](*unpack(data))
        if code >= _FIRST_OF_PANDAS:
            import pandas  # only for values that were made by it

            return getattr(pandas, _OF_PANDAS[code - _FIRST_OF_PANDAS])(data.decode())
        if code >= _FIRST_TEXT:
            return _TEXTS[code - _FIRST_TEXT][2](data.decode())
        return _COLLECTIONS[code - _FIRST_COLLECTION](unpack(data))

    try:
        records, value = unpack(tree)
    except (ValueError, TypeError, IndexError, ArithmeticError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(str(error)) from error
    if records != _fields_of_records():
        raise Malformed("its records have other fields")
    return value


def saved_and_read(value: Any) -> Any:
    """What a value is after it was saved in a checkpoint. NotPlain if it cannot be."""
    arrays = bytearray()
    tree = Encoder(arrays.extend).encode(value)
    return decode(memoryview(tree), memoryview(arrays))


def _array(dtype: str, shape: list[int], place: int, arrays: memoryview) -> NDArray[Any]:
    of, size = _dtype(dtype), math.prod(shape)
    if place < 0 or size < 0 or place + size * of.itemsize > len(arrays):
        raise ValueError("an array lies outside of the file")
    if not size * of.itemsize:
        return np.empty(shape, of)
    return np.frombuffer(arrays, of, count=size, offset=place).reshape(shape).copy()


def _dtype(written: str) -> np.dtype[Any]:
    dtype = np.dtype(written)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"an array of {written}")
    return dtype


def _names(record: type[Any]) -> list[str]:
    return [item.name for item in fields(record)] if is_dataclass(record) else list(record._fields)


def _values(record: Any) -> list[Any]:
    return [getattr(record, name) for name in _names(type(record))]


def _fields_of_records() -> list[list[str]]:
    """The fields of each record, which tell whether another version wrote them."""
    return [_names(record) for record in _RECORDS]


def _fault(value: Any) -> str | None:
    try:
        return _first_fault(value, "state")
    except RecursionError:
        return _TOO_DEEP


def _first_fault(value: Any, place: str) -> str | None:
    """Where the first value is that cannot be encoded, and what it is; None where every one can."""
    kind = type(value)
    if kind is dict:
        inside = [(key, f"a key of {place}") for key in value] + [
            (one, f"{place}[{key!r}]") for key, one in value.items()
        ]
    elif kind is list or kind in _COLLECTIONS:
        inside = [(one, f"{place}[{number}]") for number, one in enumerate(value)]
    elif kind in _RECORDS:
        inside = [(one, f"{place}.{name}") for name, one in zip(_names(kind), _values(value), strict=True)]
    else:
        try:
            Encoder(lambda _: None).pack(value)
        except (TypeError, ValueError):
            return f"{place} is a {kind.__module__}.{kind.__qualname__}"
        return None
    return next((fault for one, where in inside if (fault := _first_fault(one, where)) is not None), None)
