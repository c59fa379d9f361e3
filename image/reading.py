"""Reads a text screen from its picture: the console's font is 8 by 16, so each character is one cell, compared bit by bit.

Pure but for reading the file. The font is learned from a screen whose text is known (`learn`), not carried along. PNG as QEMU writes it:
8 bits a channel, no interlace.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

WIDTH, HEIGHT = 8, 16
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 6: 4}
UNKNOWN = "\ufffd"

Glyph = bytes
"""One cell: a byte a row, a bit a pixel that is not dark."""


def cells(file: Path) -> list[list[Glyph]]:
    """The picture as rows of cells. Raises ValueError where it is no such PNG."""
    lines = [_lit(row) for row in _rows(file.read_bytes())]
    return [
        [bytes(lines[top + y][column] for y in range(HEIGHT)) for column in range(len(lines[0]))]
        for top in range(0, len(lines) - HEIGHT + 1, HEIGHT)
    ]


def learn(file: Path, text: str) -> dict[Glyph, str]:
    """The font, from a screen whose first lines are `text`."""
    found: dict[Glyph, str] = {}
    for row, line in zip(cells(file), text.split("\n"), strict=False):
        for cell, character in zip(row, line, strict=False):
            found.setdefault(cell, character)
    return found


def read(file: Path, font: dict[Glyph, str]) -> str:
    """The screen's text; a cell that the font does not have is UNKNOWN. The cursor's cell may be one."""
    return "\n".join("".join(font.get(cell, UNKNOWN) for cell in row).rstrip() for row in cells(file))


def _lit(row: list[int]) -> bytes:
    """Brightness by pixel to bits, eight a byte."""
    return bytes(sum(1 << (7 - x) for x in range(WIDTH) if row[at + x] > 64) for at in range(0, len(row) - WIDTH + 1, WIDTH))


def _rows(data: bytes) -> list[list[int]]:
    """The brightest channel of every pixel, row by row."""
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG")
    at, packed, width, kind = len(SIGNATURE), b"", 0, 0
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if name == b"IHDR":
            width, _, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            if depth != 8 or kind not in _CHANNELS or interlaced:
                raise ValueError("not a PNG of 8 bits a channel")
        elif name == b"IDAT":
            packed += body
        at += 12 + length
    channels = _CHANNELS[kind]
    return [[max(row[x : x + min(channels, 3)]) for x in range(0, len(row), channels)] for row in _unfiltered(packed, width, channels)]


def _unfiltered(packed: bytes, width: int, channels: int) -> list[bytearray]:
    """PNG's five filters undone (RFC 2083, 6)."""
    raw, stride = zlib.decompress(packed), width * channels
    rows: list[bytearray] = []
    above = bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        if kind:
            for x in range(stride):
                left = row[x - channels] if x >= channels else 0
                corner = above[x - channels] if x >= channels else 0
                row[x] = (row[x] + _predicted(kind, left, above[x], corner)) & 0xFF
        rows.append(row)
        above = row
    return rows


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 2:
        return up
    if kind == 3:
        return (left + up) // 2
    distances = [(abs(up - corner), left), (abs(left - corner), up), (abs(left + up - 2 * corner), corner)]
    return min(distances, key=lambda pair: pair[0])[1]
