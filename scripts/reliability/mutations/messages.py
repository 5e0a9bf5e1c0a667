"""Protobuf messages with one mutated field, including bytes that no client library would send."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from reliability.mutations.requests import (
    CONTROL,
    LONG,
    REMOVED,
    RENAMED,
    UNKNOWN_KEY,
    WORDS,
    Mutant,
)

EMPTY = "(empty)"
TWICE = "(twice)"
WRONG_WIRE_TYPE = "(wrong wire type)"
INVALID_UTF_8 = "(invalid UTF-8)"
FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"))
VALUES: dict[int, tuple[Any, ...]] = {
    Field.TYPE_STRING: ("", "x", "né 犬 \U0001f415", CONTROL, LONG, WORDS),
    Field.TYPE_BYTES: (b"", b"\x00\xff", b"x" * 100_000),
    Field.TYPE_BOOL: (False, True),
    Field.TYPE_INT32: (0, -1, 2**31 - 1),
    Field.TYPE_INT64: (0, -1, 2**63 - 1),
    Field.TYPE_UINT32: (0, 2**32 - 1),
    Field.TYPE_UINT64: (0, 2**64 - 1),
    Field.TYPE_FLOAT: (*FLOATS, 3e38),
    Field.TYPE_DOUBLE: (*FLOATS, 1e308, -1e308),
}
VARINT, LENGTH, FIXED_32 = 0, 2, 5

Step = tuple[Field, int | str | None]
"""A field, and the index or key of an entry in it."""


def mutants(message: Message) -> Iterator[Mutant]:
    """Yield all mutants of a message, with serialised requests."""
    yield from _of_message(message, message, ())
    for name, data in [("byte", b"\xff"), ("open group", b"\x0b"), ("field 0", b"\x00\x00")]:
        yield Mutant("bytes at the end", name, message.SerializeToString() + data, {"message"})


def _of_message(whole: Message, message: Message, path: tuple[Step, ...]) -> Iterator[Mutant]:
    for field, value in message.ListFields():
        for data, what in _unreadable(field):
            request = whole.SerializeToString() + _wrapped(data, path)
            place = _place(whole, (*path, (field, None)))
            yield Mutant(f"bytes of {place}", what, request, {"message"})
        yield _mutant(whole, path, field, None, REMOVED)
        if _is_map(field):
            for key in value:
                yield _mutant(whole, path, field, key, REMOVED)
                yield _mutant(whole, path, field, key, RENAMED)
                yield from _of_message(whole, value[key], (*path, (field, key)))
        elif field.is_repeated:
            yield _mutant(whole, path, field, None, TWICE)
            for index in range(len(value)):
                yield _mutant(whole, path, field, index, REMOVED)
                yield from _of_value(whole, path, field, index, value[index])
        else:
            yield from _of_value(whole, path, field, None, value)


def _of_value(
    whole: Message, path: tuple[Step, ...], field: Field, index: int | None, value: Any
) -> Iterator[Mutant]:
    if field.message_type:
        yield _mutant(whole, path, field, index, EMPTY)
        yield from _of_message(whole, value, (*path, (field, index)))
        return
    siblings = field.containing_oneof.fields if field.containing_oneof else [field]
    for sibling in siblings:
        for other in VALUES[sibling.type]:
            if (type(other), other) != (type(value), value):
                yield _mutant(whole, path, sibling, index, other)


def _mutant(
    whole: Message, path: tuple[Step, ...], field: Field, index: int | str | None, value: Any
) -> Mutant:
    request = copy.deepcopy(whole)
    message = _at(request, path)
    is_removed = value in (REMOVED, RENAMED, EMPTY)
    holder = getattr(message, field.name)
    if index is None and value in (REMOVED, EMPTY):
        message.ClearField(field.name)
        if value == EMPTY:
            getattr(message, field.name).SetInParent()
    elif index is None and value == TWICE:
        holder.extend(list(holder))
    elif index is None:
        setattr(message, field.name, value)
    elif value == RENAMED:
        holder[UNKNOWN_KEY].CopyFrom(holder[index])
        del holder[index]
    elif value == REMOVED:
        del holder[index]
    elif value == EMPTY:
        holder[index].Clear()
    else:
        holder[index] = value
    steps = (*path, (field, index))
    accepted = _names(whole, steps, is_removed)
    if value == RENAMED:
        accepted.add(UNKNOWN_KEY)
    return Mutant(_place(whole, steps), value, request.SerializeToString(), accepted)


def _at(message: Message, path: tuple[Step, ...]) -> Any:
    for field, index in path:
        message = getattr(message, field.name)
        if index is not None:
            message = message[index]
    return message


def _place(whole: Message, path: tuple[Step, ...]) -> str:
    """Format a path as `inputs[text].shape[0]` or `parameters.num_beams.int64_param`."""
    place = ""
    for length, (field, index) in enumerate(path, 1):
        place += f".{field.name}" if place else field.name
        if isinstance(index, str):
            place += f".{index}"
        elif index is not None:
            entry = _at(whole, path[:length])
            place += f"[{getattr(entry, 'name', index)}]"
    return place


def _names(whole: Message, path: tuple[Step, ...], is_removed: bool) -> set[str]:
    """Return the names of which an error must contain one.

    These are the field and the keys and names of the entries around it; for a removed field also
    its parent and its children.
    """
    last, _ = path[-1]
    names = {last.name}
    for length, (field, index) in enumerate(path, 1):
        if isinstance(index, str):
            names.add(index)
        elif index is not None:
            names.add(getattr(_at(whole, path[:length]), "name", field.name))
            if is_removed:
                names.add(f"{field.name}[{index}]")
    if is_removed:
        names |= {field.name for field, _ in path[-2:-1]}
        removed = _at(whole, path)
        entries = removed if path[-1][1] is None and last.is_repeated else [removed]
        for entry in entries:
            if isinstance(entry, Message):
                names |= {child.name for child, _ in entry.ListFields()}
                names.add(getattr(entry, "name", last.name))
    return names


def _is_map(field: Field) -> bool:
    return bool(field.message_type) and field.message_type.GetOptions().map_entry


def _unreadable(field: Field) -> Iterator[tuple[bytes, str]]:
    """Yield encodings of the field that are not of its type."""
    is_float = field.type == Field.TYPE_FLOAT
    wrong = (
        _tag(field.number, VARINT) + b"\x01"
        if is_float
        else _tag(field.number, FIXED_32) + bytes(4)
    )
    yield wrong, WRONG_WIRE_TYPE
    if field.type == Field.TYPE_STRING:
        yield _tag(field.number, LENGTH) + b"\x01\xff", INVALID_UTF_8


def _wrapped(data: bytes, path: tuple[Step, ...]) -> bytes:
    """Wrap the encoding of a field in the messages around it."""
    for field, _ in reversed(path):
        if _is_map(field):
            data = _tag(2, LENGTH) + _varint(len(data)) + data
        data = _tag(field.number, LENGTH) + _varint(len(data)) + data
    return data


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
