"""What an envelope would cost, before protobuf makes objects of it.

Two bytes can be an empty `Maker`, which takes over a hundred in memory, so that a message within gRPC's limit
could take gigabytes. The fields of a message are counted first, and one that is made of little else is refused.
The values inside have a budget of their own: protocol/_budget.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from megaflow.errors import InvalidArgument

M = TypeVar("M", bound=Message)

# Bytes of a message that are not counted: it cannot take more than 1 MiB.
FREE_BYTES = 16 * 2**10
# What the objects of a message may take beside its own bytes and their copy; bytes per byte, and for any.
_PER_BYTE = 6
_GRANTED = 2**20
# Fields take time to count: so many for a message of any size, and one more for every so many bytes.
_FREE_FIELDS = 2**15
_BYTES_PER_FIELD = 6

# What one occurrence of a field takes in memory: a repeated string, any other.
_STRING = 32
_FIELD = 8
# A number of a repeated field, and what its array is ahead of it while it grows.
_NUMBER = 8
_CONTINUES = bytes(range(0x80, 0x100))


@dataclass(frozen=True)
class _Plan:
    """What a message type may hold: its size in memory, its messages, its repeated strings and packed numbers."""

    size: int
    messages: Mapping[int, _Plan]
    strings: frozenset[int]
    packed: frozenset[int]


def parse(message_type: type[M], data: bytes, *, what: str) -> M:
    """The message. Raises InvalidArgument for what is none, and for one that would take far more than its bytes.

    Args:
        what: the message's name in errors.
    """
    check(cast("Descriptor", message_type.DESCRIPTOR), data, what=what)
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise InvalidArgument(f"{what}: not a {message_type.DESCRIPTOR.full_name}") from None


def check(message_type: Descriptor, data: bytes, *, what: str) -> None:
    """Raises InvalidArgument for the bytes of a message that would take over 8 × its size in memory (+ 1 MiB)."""
    if len(data) <= FREE_BYTES:
        return
    allowed = _PER_BYTE * len(data) + _GRANTED
    try:
        affordable = _charge(_plan(message_type), data, allowed)
    except (IndexError, ValueError):
        raise InvalidArgument(f"{what}: not a {message_type.full_name}") from None
    if not affordable:
        raise InvalidArgument(
            f"{what}: {len(data)} bytes with so many fields that they would take over {allowed} in memory: "
            "send fewer at once"
        )


def _charge(plan: _Plan, data: bytes, allowed: int) -> bool:
    """Whether a message takes no more than is allowed; ValueError or IndexError where it is cut off or none."""
    left, fields = allowed, _FREE_FIELDS + len(data) // _BYTES_PER_FIELD
    at, end = 0, len(data)
    around: list[tuple[_Plan, int]] = []
    while True:
        while at >= end:
            if at > end:
                raise ValueError
            if not around:
                return True
            plan, end = around.pop()
        fields -= 1
        tag, at = _varint(data, at)
        kind, number = tag & 7, tag >> 3
        if kind != 2:
            left -= _FIELD
            at = _skip(data, at, kind)
        else:
            length, at = _varint(data, at)
            if number in plan.messages:
                around.append((plan, end))
                plan, end = plan.messages[number], at + length
                left -= plan.size
            else:
                left -= _cost(plan, number, data, at, length)
                at += length
        if left < 0 or fields < 0:
            return False


def _cost(plan: _Plan, number: int, data: bytes, at: int, length: int) -> int:
    """What a field that is no message takes beside its bytes."""
    if number in plan.packed:
        return _NUMBER * len(data[at : at + length].translate(None, _CONTINUES))
    return _STRING if number in plan.strings else _FIELD


def _skip(data: bytes, at: int, kind: int) -> int:
    """Where a field ends that has no length."""
    if kind == 0:
        return _varint(data, at)[1]
    if kind == 1:
        return at + 8
    if kind == 5:
        return at + 4
    raise ValueError  # groups, which proto3 has none of


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise ValueError


@functools.cache
def _plan(message_type: Descriptor) -> _Plan:
    fields = message_type.fields
    repeated = [one for one in fields if _is_repeated(one) and one.message_type is None]
    texts = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return _Plan(
        size=_size(message_type),
        messages={one.number: _plan(one.message_type) for one in fields if one.message_type},
        strings=frozenset(one.number for one in repeated if one.type in texts),
        packed=frozenset(one.number for one in repeated if one.type not in texts),
    )


def _size(message_type: Descriptor) -> int:
    """What a message takes in memory, with the pointer to it: a repeated field as well is one, a `oneof` a field."""
    repeated = sum(map(_is_repeated, message_type.fields))
    alone = sum(one.containing_oneof is None for one in message_type.fields) - repeated
    return 24 + 8 * repeated + 16 * alone + 24 * len(message_type.oneofs)


def _is_repeated(one: Any) -> bool:
    # The older protobuf does not have the first, and the newer warns of the second.
    repeated = getattr(one, "is_repeated", None)
    return one.label == FieldDescriptor.LABEL_REPEATED if repeated is None else bool(repeated)
