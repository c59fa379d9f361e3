"""A service description in YAML, as the JSON that the box keeps: the command reads YAML, no process of the box does.

OpenAPI allows of YAML what JSON can say (3.1, section 4.2): scalars of JSON's kinds, keys that are text. So there are no tags, dates or
objects here; aliases, which make a megabyte out of a line, are refused; every document is read event by event, without recursion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

import yaml  # type: ignore[import-untyped]  # no types, and no other use of it

from appliance.access.catalogue import DescriptionError

VALUES_MAX = 100_000
DEPTH_MAX = 64
NUMBER_CHARACTERS_MAX = 64
_JSON_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"[-+]?(?:\d+|\d*\.\d+|\d+\.\d*)(?:[eE][-+]?\d+)?")
_NAMED: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_NAMED |= {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
"""Plain scalars of YAML 1.2's core schema; `yes`, `on` and dates are text, as in JSON Schema."""


def as_json(document: bytes) -> bytes:
    """The document itself where it is JSON already; otherwise its YAML as JSON. Raises DescriptionError."""
    if _JSON_BEGINS.match(document):
        return document
    try:
        value = _value(yaml.parse(document, Loader=_LOADER))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DescriptionError(f"neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class _Open:
    """A list or a mapping that is not complete yet. `key`: of the value that comes next; None: a key comes next."""

    def __init__(self, holds: list[Any] | dict[str, Any]) -> None:
        self.holds = holds
        self.key: str | None = None

    def take(self, value: Any, plain: str | None) -> None:
        """`plain`: the text of a scalar, which is what a key is made of (`200:` is "200")."""
        if isinstance(self.holds, list):
            self.holds.append(value)
        elif self.key is not None:
            self.holds[self.key] = value
            self.key = None
        elif plain is None:
            raise DescriptionError("a key of the description is not text")
        elif plain in self.holds:
            raise DescriptionError(f"the key {plain[:80]!r} stands twice in the description")
        else:
            self.key = plain


def _value(events: Iterator[Any]) -> Any:
    """What the one document says."""
    opened: list[_Open] = [_Open([])]
    count = documents = 0
    for event in events:
        count += 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if count > VALUES_MAX or len(opened) > DEPTH_MAX or documents > 1:
            raise DescriptionError(f"more than one document, {VALUES_MAX} values or {DEPTH_MAX} levels in the description")
        if isinstance(event, yaml.AliasEvent):
            raise DescriptionError("an alias (`*name`) in the description: write it out")
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            _no_tag(event)
            opened.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else []))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = opened.pop()
            opened[-1].take(done.holds, None)
        elif isinstance(event, yaml.ScalarEvent):
            _no_tag(event)
            opened[-1].take(_scalar(event), event.value)
    (top,) = opened
    return top.holds[0] if top.holds else None  # type: ignore[index]  # a list


def _no_tag(event: Any) -> None:
    if event.tag is not None:
        raise DescriptionError(f"a tag ({event.tag[:80]}) in the description")


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # in quotes, or a block
        return text
    if text in _NAMED:
        return _NAMED[text]
    if len(text) > NUMBER_CHARACTERS_MAX or not _NUMBER.fullmatch(text):
        return text
    number = int(text) if text.lstrip("+-").isdigit() else float(text)
    return number if isfinite(number) else text
