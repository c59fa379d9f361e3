"""Which keys a box has, and which process may use which of them for what.

Pure. The topology says who may call an operation at all; this table says with which key. A captured relay can make seals and TLS handshakes
of its own box, nothing else: no seal key signs a handshake, no TLS key makes a seal.
"""

from __future__ import annotations

import re

from appliance.errors import RefusedError

SEAL, TLS, LOG = "seal", "tls", "log"
TLS_PEER, TLS_INTERNAL, TLS_REPORT = "tls-peer", "tls-internal", "tls-report"

_SEAL_LABEL = re.compile(r"seal/[^/]{1,255}/[^/]{1,255}")
_FIXED = {TLS_PEER: TLS, TLS_INTERNAL: TLS, TLS_REPORT: TLS, LOG: LOG}

_HANDSHAKES = {"relay": (TLS_PEER, TLS_INTERNAL), "reporter": (TLS_REPORT,)}
"""Handshakes by caller. The digest of a handshake cannot be told from another: hence TLS keys of their own, never a member's."""

_SEALERS = ("relay",)


class LabelError(RefusedError):
    """Not the name of a key that a box has."""

    kind = "key.label_unknown"


class KeyNotGrantedError(RefusedError):
    """This process may not use this key for this."""

    kind = "key.not_granted"


def use_of(label: str) -> str:
    """SEAL, TLS or LOG. Raises LabelError for a label that is not in the box's plan."""
    if label in _FIXED:
        return _FIXED[label]
    if _SEAL_LABEL.fullmatch(label) and label.isprintable():
        return SEAL
    raise LabelError(f"no key is called {label[:80]!r}")


def seal_label(member: str) -> str:
    """The seal key of a member given as `CLASS/CODE`. Raises LabelError."""
    label = f"seal/{member}"
    use_of(label)
    return label


def check_seal(caller: str, label: str) -> None:
    """Raises KeyNotGrantedError unless the caller may make seals with this key."""
    if caller not in _SEALERS or use_of(label) != SEAL:
        raise KeyNotGrantedError(f"{caller} may not make seals with {label}")


def check_handshake(caller: str, label: str) -> None:
    """Raises KeyNotGrantedError unless the caller may sign TLS handshakes with this key."""
    if label not in _HANDSHAKES.get(caller, ()):
        raise KeyNotGrantedError(f"{caller} may not sign handshakes with {label[:80]}")
