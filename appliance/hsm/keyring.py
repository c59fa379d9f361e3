"""Which keys a box has, and which process may use which of them for what.

Pure. The topology says who may call an operation at all; this table says with which key. A captured relay can make seals and TLS handshakes
of its own box, nothing else: no seal key signs a handshake, no TLS key makes a seal.
"""

from __future__ import annotations

import re

from appliance.errors import RefusedError

SEAL, TLS, LOG, WRAP = "seal", "tls", "log", "wrap"
TLS_PEER, TLS_INTERNAL, TLS_REPORT = "tls-peer", "tls-internal", "tls-report"

_SEAL_LABEL = re.compile(r"seal/[^/]{1,255}/[^/]{1,255}")
_FIXED = {TLS_PEER: TLS, TLS_INTERNAL: TLS, TLS_REPORT: TLS, LOG: LOG, WRAP: WRAP}

_VERSION = re.compile(r"(.+)/([2-9]|[1-9][0-9]{1,2})")
VERSIONS_MAX = 999
"""Keys of one label over its life: a renewal every year for longer than any box lives."""

_HANDSHAKES = {"relay": (TLS_PEER, TLS_INTERNAL), "reporter": (TLS_REPORT,)}
"""Handshakes by caller. The digest of a handshake cannot be told from another: hence TLS keys of their own, never a member's."""

_SEALERS = ("relay",)


class LabelError(RefusedError):
    """Not the name of a key that a box has."""

    kind = "key.label_unknown"


class KeyNotGrantedError(RefusedError):
    """This process may not use this key for this."""

    kind = "key.not_granted"


class KeyAlgorithmError(RefusedError):
    """A key of this algorithm could never be used for what the label says."""

    kind = "key.algorithm_unfit"


def use_of(label: str) -> str:
    """SEAL, TLS, LOG or WRAP, also of a renewed key. Raises LabelError for a label that is not in the box's plan."""
    return _planned(role_of(label))


def role_of(label: str) -> str:
    """The label without its version: a renewed key lies in the token beside the old one, as `tls-peer/2`, `seal/CLASS/CODE/2`, ...

    No label of the plan is another one with a version: seal labels have two slashes, the others none. Raises LabelError.
    """
    if _planned(label):
        return label
    found = _VERSION.fullmatch(label)
    if found is not None and _planned(found[1]):
        return found[1]
    raise LabelError(f"no key is called {label[:80]!r}")


def version_of(label: str) -> int:
    """1 for the first key of its role. Raises LabelError."""
    role = role_of(label)
    return 1 if label == role else int(label[len(role) + 1 :])


def versioned(role: str, version: int) -> str:
    """The label in the token of a role's n-th key. Raises LabelError beyond VERSIONS_MAX."""
    label = role if version == 1 else f"{role}/{version}"
    if role_of(label) != role:
        raise LabelError(f"{label[:80]!r} is not the name of a renewed key")
    return label


def seal_label(member: str) -> str:
    """The seal key of a member given as `CLASS/CODE`. Raises LabelError."""
    label = f"seal/{member}"
    if _planned(label) != SEAL:
        raise LabelError(f"no member is called {member[:80]!r}")
    return label


def _planned(label: str) -> str:
    """The use of a label without version; empty for one that is not in the plan."""
    if label in _FIXED:
        return _FIXED[label]
    return SEAL if _SEAL_LABEL.fullmatch(label) and label.isprintable() else ""


def check_algorithm(label: str, algorithm: str) -> None:
    """Raises KeyAlgorithmError for a key that no handshake could use: with RSA, OpenSSL would ask the signer for a raw private operation
    in TLS 1.3 (`net.token_key`), which it does not have; a peer with RSA keys needs none of ours (net/README.md)."""
    if use_of(label) == TLS and not algorithm.startswith("EC-"):
        raise KeyAlgorithmError(f"{label}: TLS with a key in the token wants EC, not {algorithm[:20]}")


def check_seal(caller: str, label: str) -> None:
    """Raises KeyNotGrantedError unless the caller may make seals with this key."""
    if caller not in _SEALERS or use_of(label) != SEAL:
        raise KeyNotGrantedError(f"{caller} may not make seals with {label}")


def check_handshake(caller: str, label: str) -> None:
    """Raises KeyNotGrantedError unless the caller may sign TLS handshakes with this key."""
    if label not in _HANDSHAKES.get(caller, ()):
        raise KeyNotGrantedError(f"{caller} may not sign handshakes with {label[:80]}")
