"""Changed inputs out of good ones: repeatable, knows nothing of any format but the words that matter in it."""

from __future__ import annotations

import random
from collections.abc import Sequence

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WORDS = (
    b"\x00", b"\r\n", b"\n", b"\r\n\r\n", b"--", b":", b";", b",", b'"', b"%", b"%00", b"../", b"\xff", b"\xc3\x28", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"0", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"[" * 64, b"{" * 64, b"<a>" * 40, b"]]>", b"<![CDATA[",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"<?xml version='1.0' encoding='UTF-16'?>", b"<!--", b"xmlns=''",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"boundary=", b"charset=utf-16", b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff", b"\x02\x81\x00", b"\x05\x00", b"\x9f\xff\x7f", b"PK\x03\x04", b"PK\x01\x02", b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xa5hello",
)  # fmt: skip
GROWN_BYTES_MAX = 64 << 10
STACKED_MAX = 4


def mutants(name: str, seeds: Sequence[bytes], count: int) -> list[bytes]:
    """`count` of them, the same for the same name and seeds."""
    chance = random.Random(name)  # noqa: S311  repeatable
    return [mutant(chance, seeds) for _ in range(count)]


def mutant(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to STACKED_MAX places."""
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 1, 2, 2, STACKED_MAX))):
        data = chance.choice(_CHANGES)(chance, data, seeds)
    return data[:GROWN_BYTES_MAX]


def _byte(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]


def _bit(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    at = chance.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]


def _number(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(data) + 1)
    value = chance.choice(NUMBERS) & (1 << 8 * size) - 1
    return data[:at] + value.to_bytes(size, chance.choice(("big", "little"))) + data[at + size :]


def _word(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(WORDS) + data[at + chance.choice((0, 0, 1, 4)) :]


def _cut(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.choice((1, 2, 3, 8, 64, 1 << 20)) :]


def _again(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, at = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 4, 16, 200))]
    return data[:at] + piece * chance.choice((1, 1, 2, 60)) + data[at:]


def _splice(chance: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _digit(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    places = [at for at, byte in enumerate(data[:4096]) if 0x30 <= byte <= 0x39]
    if not places:
        return data
    at = chance.choice(places)
    return data[:at] + chance.choice((b"0", b"9", b"-", b".", b"e9", b"99999999", b"")) + data[at + 1 :]


_CHANGES = (_byte, _byte, _bit, _bit, _number, _number, _word, _word, _word, _cut, _again, _splice, _digit)
