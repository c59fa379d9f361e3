"""Names of members, subsystems, services, servers: parsing and printing in every form the protocol uses.

Pure. Sheet part 1 (X-Road `xroad-protocol.md`): parts are compared exactly and case-sensitively; a client without a subsystem is a
MEMBER and never equals one of its subsystems. Strings here are the plain form `INSTANCE/CLASS/CODE/SUBSYSTEM` with parts joined by
`/`; the percent-encoded form exists only in REST paths and headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import msgspec

from appliance.errors import RefusedError

_SEGMENT = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*")
_UNESCAPED = "!$&'()*+,;=:@"
PART_CHARACTERS_MAX = 255
"""Longest part: X-Road keeps them in varchar(255) columns (sheet 1.5)."""


NAMES_KEPT = 512
"""Of each kind: a box speaks of the same few hundred names in every message. The longest names there can be would take 6 MB."""


class IdentifierError(RefusedError):
    """A name that is not one: wrong number of parts, empty part, bad percent-encoding."""

    kind = "identifier.malformed"


class ClientId(msgspec.Struct, frozen=True, gc=False):
    """A member (subsystem None) or a subsystem: who asks, or who offers."""

    instance: str
    member_class: str
    member_code: str
    subsystem: str | None = None

    def __str__(self) -> str:
        return _plain(self)

    @property
    def parts(self) -> tuple[str, ...]:
        whole = (self.instance, self.member_class, self.member_code)
        return whole if self.subsystem is None else (*whole, self.subsystem)

    @property
    def member(self) -> ClientId:
        """The member alone: seals name members, not subsystems."""
        return self if self.subsystem is None else ClientId(self.instance, self.member_class, self.member_code)

    @property
    def object_type(self) -> str:
        return "MEMBER" if self.subsystem is None else "SUBSYSTEM"

    def encoded(self) -> str:
        """The form in X-Road-Client and paths: each part percent-encoded as a path segment."""
        return _encoded(self)

    @classmethod
    def parse(cls, text: str) -> ClientId:
        """From the plain form, 3 or 4 parts. Raises IdentifierError."""
        return cls.of(text.split("/"))

    @staticmethod
    @lru_cache(NAMES_KEPT)
    def decode(text: str) -> ClientId:
        """From the percent-encoded form of headers. Raises IdentifierError."""
        return ClientId.of([decode_part(part) for part in text.split("/")])

    @classmethod
    def of(cls, parts: list[str]) -> ClientId:
        if not 3 <= len(parts) <= 4:
            raise IdentifierError(f"a client has 3 or 4 parts, not {len(parts)}")
        _check(parts)
        return cls(*parts)


class ServiceId(msgspec.Struct, frozen=True, gc=False):
    """A service of a provider. `version` exists only in SOAP and is ignored by access rights."""

    provider: ClientId
    code: str
    version: str | None = None

    def __str__(self) -> str:
        return _plain(self)

    @property
    def parts(self) -> tuple[str, ...]:
        whole = (*self.provider.parts, self.code)
        return whole if self.version is None else (*whole, self.version)

    def encoded(self) -> str:
        return _encoded(self)

    @classmethod
    def parse(cls, text: str) -> ServiceId:
        """From the plain form of a REST service: exactly 5 parts (sheet 1.4: REST services live on subsystems)."""
        return cls._of(text.split("/"))

    @staticmethod
    @lru_cache(NAMES_KEPT)
    def decode(text: str) -> ServiceId:
        return ServiceId._of([decode_part(part) for part in text.split("/")])

    @classmethod
    def _of(cls, parts: list[str]) -> ServiceId:
        if len(parts) != 5:
            raise IdentifierError(f"a service has 5 parts, not {len(parts)}")
        _check(parts)
        return cls(ClientId(*parts[:4]), parts[4])


@dataclass(frozen=True, slots=True)
class ServerId:
    """A security server: its owner and its code."""

    owner: ClientId
    code: str

    def __str__(self) -> str:
        return "/".join((*self.owner.parts, self.code))

    def encoded(self) -> str:
        return "/".join(encode_part(part) for part in (*self.owner.parts, self.code))

    @classmethod
    def parse(cls, text: str) -> ServerId:
        return cls._of(text.split("/"))

    @classmethod
    def decode(cls, text: str) -> ServerId:
        return cls._of([decode_part(part) for part in text.split("/")])

    @classmethod
    def _of(cls, parts: list[str]) -> ServerId:
        if len(parts) != 4:
            raise IdentifierError(f"a security server has 4 parts, not {len(parts)}")
        _check(parts)
        return cls(ClientId(*parts[:3]), parts[3])


@lru_cache(NAMES_KEPT)
def _plain(identifier: ClientId | ServiceId) -> str:
    return "/".join(identifier.parts)


@lru_cache(NAMES_KEPT)
def _encoded(identifier: ClientId | ServiceId) -> str:
    return "/".join(encode_part(part) for part in identifier.parts)


def encode_part(part: str) -> str:
    """A part as a URL path segment: UTF-8, upper-case hex (sheet 1.4)."""
    return quote(part, safe=_UNESCAPED)


def decode_part(segment: str) -> str:
    """The part behind a percent-encoded segment. Raises IdentifierError for raw spaces, non-ASCII, broken `%`."""
    if not _SEGMENT.fullmatch(segment):
        raise IdentifierError("a part is not percent-encoded as a path segment")
    if "%" not in segment:
        return segment
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise IdentifierError("a part is not UTF-8") from None


def _check(parts: list[str]) -> None:
    for part in parts:
        if not part:
            raise IdentifierError("a part is empty")
        if len(part) > PART_CHARACTERS_MAX:
            raise IdentifierError(f"a part is longer than {PART_CHARACTERS_MAX} characters")
