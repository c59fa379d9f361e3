"""Reading a screen from its picture: what was learned from one screen is read on another, whatever filter the picture uses."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from image import reading
from image.reading import HEIGHT, UNKNOWN, WIDTH


def glyph(character: str) -> bytes:
    """A picture of its own for each character; nothing for a blank."""
    return bytes(HEIGHT) if character == " " else bytes((ord(character) * 37 + y * 91) & 0xFF for y in range(HEIGHT))


def png(text: str, kind: int) -> bytes:
    """The text as QEMU's screen dump would show it: RGB, every row by the same filter."""
    lines = text.split("\n")
    columns = max(map(len, lines))
    rows = []
    for line in lines:
        for y in range(HEIGHT):
            bits = [glyph(character)[y] >> (7 - x) & 1 for character in line.ljust(columns) for x in range(WIDTH)]
            rows.append(bytes(value for bit in bits for value in ((170 * bit,) * 3)))
    packed, above = b"", bytes(len(rows[0]))
    for row in rows:
        left = bytes(3) + row[:-3]
        corner = bytes(3) + above[:-3]
        predicted = {0: bytes(len(row)), 1: left, 2: above, 3: bytes((a + b) // 2 for a, b in zip(left, above, strict=True))}.get(kind)
        if predicted is None:
            predicted = bytes(paeth(a, b, c) for a, b, c in zip(left, above, corner, strict=True))
        packed += bytes([kind]) + bytes((value - guess) & 0xFF for value, guess in zip(row, predicted, strict=True))
        above = row
    header = struct.pack(">IIBBBBB", columns * WIDTH, len(rows), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    return reading.SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


@pytest.mark.parametrize("kind", range(5))
def test_a_screen_is_read_with_the_font_learned_from_another(tmp_path: Path, kind: int) -> None:
    known, page = tmp_path / "known.png", tmp_path / "page.png"
    known.write_bytes(png("abcdefgh\nSINALT :", kind))
    page.write_bytes(png("SIN ALTA\n  bad: gafe", kind))

    assert reading.read(page, reading.learn(known, "abcdefgh\nSINALT :")) == "SIN ALTA\n  bad: gafe"


def test_what_was_not_learned_is_not_guessed(tmp_path: Path) -> None:
    known, page = tmp_path / "known.png", tmp_path / "page.png"
    known.write_bytes(png("abc", 0))
    page.write_bytes(png("abz", 0))

    assert reading.read(page, reading.learn(known, "abc")) == f"ab{UNKNOWN}"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"GIF89a")

    with pytest.raises(ValueError, match="not a PNG"):
        reading.cells(tmp_path / "x")
