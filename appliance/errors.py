"""The five families of errors, by what the caller does about them.

Pure. Leaves live beside the code that raises them, each with a stable `kind`; a kind is counted, logged and may travel between
processes, an exception never does. Names end in Error. A wrong order of calls is a RuntimeError, not one of these.
"""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes that are not what they should be: broken UTF-8 and deep nesting have errors of their own."""


class XacbeError(Exception):
    """Root of the tree; never raised itself. `kind` is stable: counters, faults and tests name it."""

    kind = "box.error"

    def __init__(self, message: str = "", *, kind: str | None = None) -> None:
        super().__init__(message or kind or self.kind)
        if kind is not None:
            self.kind = kind


class RefusedError(XacbeError):
    """Policy says no: answer, do not retry."""

    kind = "box.refused"


class UnverifiedError(XacbeError):
    """Evidence does not hold: fail closed."""

    kind = "seal.unverified"


class PeerProtocolError(XacbeError):
    """The other side broke the protocol: close that connection."""

    kind = "peer.protocol"


class UnavailableError(XacbeError):
    """Something is away: retry by deadline."""

    kind = "box.unavailable"

    def __init__(self, message: str = "", *, kind: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, kind=kind)
        self.retry_after_s = retry_after_s


class CorruptStateError(XacbeError):
    """Our own state contradicts itself: stop the process; the box is HELD."""

    kind = "box.corrupt_state"


class SettingsError(XacbeError):
    """Wrong settings, said with the key's path; raised at start only."""

    kind = "settings.wrong"


FAMILIES: dict[str, type[XacbeError]] = {
    family.__name__: family
    for family in (RefusedError, UnverifiedError, PeerProtocolError, UnavailableError, CorruptStateError, SettingsError)
}


def family_of(error: XacbeError) -> str:
    """The family's name, for the socket between two processes."""
    return next(name for name, family in FAMILIES.items() if isinstance(error, family))


def rebuilt(family: str, kind: str, message: str) -> XacbeError:
    """The error as the caller in another process sees it: same family, same kind, no traceback."""
    return FAMILIES.get(family, UnavailableError)(message, kind=kind)
