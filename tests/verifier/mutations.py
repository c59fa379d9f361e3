"""Containers spoiled in ways that hit every reader: archive, XML, hash chains, certificates, OCSP, time stamps."""

from __future__ import annotations

import base64
import io
import random
import re
import zipfile
from collections.abc import Callable

Entries = dict[str, bytes]
_VALUE = re.compile(rb">([A-Za-z0-9+/=\s&#;xD]{24,})<")
_SPLICES = (
    b"<!-- -->",
    b"<?x y?>",
    b"<![CDATA[x]]>",
    b"&amp;",
    b"&#65;",
    b"&x;",
    b"<a/>",
    b" ",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"<!DOCTYPE x>",
    b"]]>",
)


def mutated(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(what was done, the bytes)."""
    kind = chance.choice(sorted(_KINDS))
    return kind, _KINDS[kind](data, chance)


def entries_of(data: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: Entries) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return output.getvalue()


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << chance.randrange(8)),)) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    return data[:begin] + data[begin + chance.randrange(1, 40) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    end = begin + chance.randrange(1, 200)
    return data[:end] + data[begin:]


def _in_entry(change: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    def act(data: bytes, chance: random.Random) -> bytes:
        entries = entries_of(data)
        name = chance.choice([name for name, content in entries.items() if content])
        return packed({**entries, name: change(entries[name], chance)})

    return act


def _splice(data: bytes, chance: random.Random) -> bytes:
    """Something that XML readers differ about, at a place where it may stand."""
    places = [found.start() for found in re.finditer(rb"[<>\"]", data)] or [0]
    at = chance.choice(places) + chance.randrange(2)
    return data[:at] + chance.choice(_SPLICES) + data[at:]


def _value(data: bytes, chance: random.Random) -> bytes:
    """A change inside one base64 value of a document: certificates, OCSP responses, time stamps, digests, the signature itself."""
    found = list(_VALUE.finditer(data))
    if not found:
        return _flip(data, chance)
    place = chance.choice(found)
    try:
        content = base64.b64decode(place[1].replace(b"&#xD;", b""))
    except ValueError:
        return _flip(data, chance)
    changed = chance.choice((_flip, _flip, _cut, _repeat))(content, chance)
    return data[: place.start(1)] + base64.b64encode(changed) + data[place.end(1) :]


def _drop_entry(data: bytes, chance: random.Random) -> bytes:
    entries = entries_of(data)
    del entries[chance.choice(list(entries))]
    return packed(entries)


def _add_entry(data: bytes, chance: random.Random) -> bytes:
    name = chance.choice(["attachment2", "ATTACHMENT1", "META-INF/signatures2.xml", "x/../y", "readme.txt", "meta-inf/ñ.xml"])
    return packed({**entries_of(data), name: b"added"})


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "archive: a bit": _flip,
    "archive: bytes cut": _cut,
    "archive: bytes twice": _repeat,
    "archive: something behind it": lambda data, chance: data + chance.randbytes(chance.randrange(1, 60)),
    "archive: an entry less": _drop_entry,
    "archive: an entry more": _add_entry,
    "entry: a bit": _in_entry(_flip),
    "entry: bytes cut": _in_entry(_cut),
    "entry: bytes twice": _in_entry(_repeat),
    "entry: markup": _in_entry(_splice),
    "value: changed": _in_entry(_value),
}
