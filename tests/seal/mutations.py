"""Mutations of a good message between boxes (T04): what a thief, a bad cable or a clever peer may do to its bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from appliance.net.transport_parts import SealedMessage

Mutation = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Parts:
    """Everything of a message that is delivered, recorded or believed. Headers of parts are not: the protocol leaves them unsigned."""

    head: bytes
    bodies: tuple[bytes, ...]
    chain_result: bytes | None
    chain: bytes | None
    signature: bytes
    ocsp: tuple[bytes, ...]

    @classmethod
    def of(cls, message: SealedMessage) -> Parts:
        return cls(message.head.data, message.attachment_digests, message.chain_result, message.chain, message.signature, message.head.ocsp)


def mutated(chance: random.Random, message: bytes) -> bytes:
    """The message with one change, never the message itself."""
    changed = message
    while changed == message:
        changed = chance.choice(MUTATIONS)(chance, message)
    return changed


def _byte(chance: random.Random, message: bytes) -> bytes:
    at = chance.randrange(len(message))
    return message[:at] + bytes((chance.randrange(256),)) + message[at + 1 :]


def _bit(chance: random.Random, message: bytes) -> bytes:
    at = chance.randrange(len(message))
    return message[:at] + bytes((message[at] ^ 1 << chance.randrange(8),)) + message[at + 1 :]


def _insert(chance: random.Random, message: bytes) -> bytes:
    at = chance.randrange(len(message) + 1)
    return message[:at] + chance.choice(_PUT) + message[at:]


def _delete(chance: random.Random, message: bytes) -> bytes:
    at = chance.randrange(len(message))
    return message[:at] + message[at + chance.choice((1, 1, 1, 2, 7, 100)) :]


def _blank(chance: random.Random, message: bytes) -> bytes:
    """Another blank for a blank: what XML readers and multipart readers like to forgive."""
    places = [at for at, byte in enumerate(message) if byte in b" \t\r\n"]
    at = chance.choice(places)
    return message[:at] + chance.choice((b" ", b"\t", b"\n", b"\r\n", b"")) + message[at + 1 :]


def _case(chance: random.Random, message: bytes) -> bytes:
    at = chance.randrange(len(message))
    return message[:at] + message[at : at + 1].swapcase() + message[at + 1 :]


def _copy(chance: random.Random, message: bytes) -> bytes:
    """A piece of it once more, somewhere else."""
    start, size, at = chance.randrange(len(message)), chance.choice((1, 4, 20, 400)), chance.randrange(len(message))
    return message[:at] + message[start : start + size] + message[at:]


def _parts(message: bytes) -> tuple[bytes, list[bytes]]:
    dash = message[: message.index(b"\r\n")]
    return dash, message.split(b"\r\n" + dash)


def _swap_parts(chance: random.Random, message: bytes) -> bytes:
    dash, parts = _parts(message)
    parts[0] = parts[0].removeprefix(dash)
    one, other = chance.randrange(len(parts) - 1), chance.randrange(len(parts) - 1)
    parts[one], parts[other] = parts[other], parts[one]
    return dash + (b"\r\n" + dash).join(parts)


def _drop_part(chance: random.Random, message: bytes) -> bytes:
    dash, parts = _parts(message)
    parts[0] = parts[0].removeprefix(dash)
    del parts[chance.randrange(len(parts) - 1)]
    return dash + (b"\r\n" + dash).join(parts)


def _double_part(chance: random.Random, message: bytes) -> bytes:
    dash, parts = _parts(message)
    parts[0] = parts[0].removeprefix(dash)
    at = chance.randrange(len(parts) - 1)
    parts.insert(chance.randrange(len(parts)), parts[at])
    return dash + (b"\r\n" + dash).join(parts)


def _header(chance: random.Random, message: bytes) -> bytes:
    """A line that is like a header: gone, twice, or with something behind it."""
    lines = message.split(b"\r\n")
    places = [at for at, line in enumerate(lines) if b":" in line and len(line) < 300]
    at = chance.choice(places)
    lines[at : at + 1] = chance.choice(([], [lines[at]] * 2, [lines[at] + b"x"], [lines[at].partition(b":")[0] + b":"]))
    return b"\r\n".join(lines)


_PUT = (b" ", b"\n", b"\r\n", b"\x00", b"<", b"<!-- -->", b"<x/>", b"=", b"A", b"&#10;", b"--", b'"', b"\xc3\xb1")
MUTATIONS: tuple[Mutation, ...] = (
    _byte, _byte, _byte, _bit, _bit, _insert, _insert, _delete, _blank, _case, _copy, _swap_parts, _drop_part, _double_part, _header,
)  # fmt: skip
