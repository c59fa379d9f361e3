"""Paths of REST requests as access rights see them, and the globs that rights are written in.

Pure. Sheet 9.1: the path is percent-decoded and normalised, then matched whole: `*` any run without `/`, `**` any run, `\\` escapes.
Every matcher is linear in the path's length: a right must not become a way to stop the relay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
PATTERN_CHARACTERS_MAX = 1024
"""Longest glob of a right: the generated ones of an OpenAPI description stay below 200."""

Matcher = Callable[[str], bool]


def normalised(raw: str) -> str | None:
    """The path that rights are matched against; None where it must be refused.

    Refused: broken percent-encoding; `..` that remains after normalising, that another order of decoding and normalising reads
    differently, or that hides behind a second encoding. The system behind us may read such a path as another one.
    """
    if "%" not in raw:
        path = _plain(raw)
        return None if ".." in path else path
    if _BROKEN_PERCENT.search(raw):
        return None
    decoded = _decoded(raw)
    path = _plain(decoded)
    if ".." in path:
        return None
    if ".." in decoded and _decoded(_plain(raw)) != path:
        return None
    if "%" in path and ".." in _decoded(path):
        return None
    return path


def _decoded(path: str) -> str:
    # Bytes that are not UTF-8 stay distinct characters, so that no two different paths become one.
    return unquote_to_bytes(path).decode("utf-8", "surrogateescape")


def _plain(path: str) -> str:
    """Empty and `.` segments dropped, `..` taken with the segment before it; a leading `..` stays."""
    if "//" not in path and "/." not in path and not path.startswith("."):
        return path
    absolute, directory = path.startswith("/"), path.endswith(("/", "/.", "/.."))
    kept: list[str] = []
    for segment in path.split("/"):
        if segment in ("", "."):
            continue
        if segment == ".." and kept and kept[-1] != "..":
            kept.pop()
        else:
            kept.append(segment)
    plain = "/" * absolute + "/".join(kept)
    return plain + "/" if directory and kept else plain


def compiled(pattern: str) -> Matcher:
    """The matcher of one glob. The kind is chosen by shape: equality, one pass of an atomic expression, or a set of states."""
    tokens = _tokens(pattern)
    if all(isinstance(token, str) for token in tokens):
        literal = "".join(token for token in tokens if isinstance(token, str))
        return literal.__eq__
    if tokens == [_ANY]:
        return lambda path: True
    if _ANY not in tokens[:-1]:
        expression = re.compile(_atomic(tokens), re.DOTALL)
        return lambda path: expression.match(path) is not None
    return _states(tokens)


class _Star:
    """A wildcard; `crosses` is whether it may cover a `/`."""

    def __init__(self, crosses: bool) -> None:
        self.crosses = crosses


_RUN, _ANY = _Star(crosses=False), _Star(crosses=True)


def _tokens(pattern: str) -> list[str | _Star]:
    """Literal runs and wildcards in turn."""
    tokens: list[str | _Star] = []
    literal, at = "", 0
    while at < len(pattern):
        if pattern[at] == "*":
            stars = len(pattern) - at - len(pattern[at:].lstrip("*"))
            tokens += [literal] * bool(literal) + [_ANY if stars > 1 else _RUN]
            literal, at = "", at + stars
            continue
        at += pattern[at] == "\\" and at + 1 < len(pattern)
        literal, at = literal + pattern[at], at + 1
    return tokens + [literal] * bool(literal)


def _atomic(tokens: list[str | _Star]) -> str:
    """For globs whose only `**`, if any, is the last token: the leftmost place of each literal is final, so nothing is tried twice."""
    ends_open = tokens[-1] is _ANY
    tokens = tokens[:-1] if ends_open else tokens
    parts, at = [], 0
    while at < len(tokens):
        token = tokens[at]
        if isinstance(token, str):
            parts.append(re.escape(token))
        elif at + 1 < len(tokens):
            literal = re.escape(str(tokens[at + 1]))
            last = at + 2 == len(tokens) and not ends_open
            parts.append(f"[^/]*{literal}" if last else f"(?>[^/]*?{literal})")
            at += 1
        else:
            parts.append("" if ends_open else "[^/]*+")
        at += 1
    return "".join(parts) + ("" if ends_open else r"\Z")


def _states(tokens: list[str | _Star]) -> Matcher:
    """All positions in the glob at once, one bit each: a fixed handful of integer operations a character."""
    letters: dict[str, int] = {}
    runs = crossing = 0
    position = 0
    for token in tokens:
        if isinstance(token, _Star):
            runs |= 1 << position
            crossing |= (1 << position) if token.crosses else 0
        else:
            for letter in token:
                letters[letter] = letters.get(letter, 0) | (1 << position)
                position += 1
    accepted = 1 << position

    # A bit is the number of literal characters matched; a wildcard there lets it stay.
    def matches(path: str) -> bool:
        alive, bits = 1, letters
        for letter in path:
            stays = alive & (crossing if letter == "/" else runs)
            alive = ((alive & bits.get(letter, 0)) << 1) | stays
            if not alive:
                return False
        return bool(alive & accepted)

    return matches
