"""The TLS contexts of a box: what each kind of connection may negotiate, and whom it believes.

TLS itself says only that the peer holds the key of a certificate under one of the given anchors. What X-Road asks beyond that (profile,
registered hash, OCSP, sheet 3.2) is checked by the caller on the certificate that the connection shows; no host names are checked, as in
X-Road, but for information systems that are known by an authority alone. Contexts are cheap and immutable for us: when the global
configuration or a key changes, a new one is made, and sessions of the old one no longer resume.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

KeyLoader = Callable[[ssl.SSLContext], None]
"""Puts our certificate chain and key into a context: from the token on a box, from files in tests."""

GROUP = "prime256v1"
"""The only group (Python 3.11 sets one): every peer has it, and nothing weaker or slower is left to choose."""
AEAD_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 towards information systems; the suites of TLS 1.3 are all of this kind."""
FOREIGN_SUITES = "ECDHE-RSA-AES256-SHA384:DHE-RSA-AES256-SHA256:ECDHE-ECDSA-AES256-SHA384"
"""X-Road's own three (sheet 3.1): CBC, so only where settings allow foreign servers."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name: X-Road logs the expiry of a registered certificate, no more (9.2)."""


def peer_server_context(anchors: Iterable[bytes], key_loader: KeyLoader, *, foreign: bool = False) -> ssl.SSLContext:
    """Port 5500: other boxes, whose certificate (DER `anchors`: the approved CAs, also intermediate ones) is required.

    TLS 1.3 only; with `foreign` also TLS 1.2 with X-Road's suites.
    """
    context = _peer_context(ssl.PROTOCOL_TLS_SERVER, anchors, foreign)
    key_loader(context)
    return context


def peer_client_context(anchors: Iterable[bytes], key_loader: KeyLoader, *, foreign: bool = False) -> ssl.SSLContext:
    """Towards the port 5500 of other boxes; the mirror image of `peer_server_context`."""
    context = _peer_context(ssl.PROTOCOL_TLS_CLIENT, anchors, foreign)
    key_loader(context)
    return context


def client_https_context(key_loader: KeyLoader) -> ssl.SSLContext:
    """Port 8443: information systems, which may show a certificate or none.

    Python's ssl refuses every certificate without an anchor; `token_key.accept_any_certificate` lifts that where X-Road's rule is wanted:
    any certificate at TLS level, compared with the registered ones afterwards (sheet 2.1, 9.2).
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(AEAD_SUITES)
    context.verify_mode = ssl.CERT_OPTIONAL
    key_loader(context)
    return context


def system_client_context(pinned: Iterable[bytes] | None, key_loader: KeyLoader | None = None, *, ca_file: str = "") -> ssl.SSLContext:
    """Towards the information systems that provide services, with our own certificate where `key_loader` is given.

    `pinned` are the certificates stored for that client: the caller compares bytes afterwards, so neither name nor time matters. None takes
    any certificate, as X-Road does where `sslAuthentication` is off. `ca_file` (PEM) adds authorities of the institution: where nothing is
    pinned, the certificate must be in force and name the host that the connection was asked for.
    """
    pinned = None if pinned is None else tuple(pinned)
    context = _context(ssl.PROTOCOL_TLS_CLIENT, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(AEAD_SUITES)
    if pinned is None and not ca_file:
        context.verify_mode = ssl.CERT_NONE
    else:
        if pinned:
            _pin(context, pinned)
        else:
            context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN  # the institution's authority may be an intermediate one
            context.check_hostname = True  # one authority speaks for many systems: only the name says which
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
    if key_loader is not None:
        key_loader(context)
    return context


def _peer_context(side: ssl._SSLMethod, anchors: Iterable[bytes], foreign: bool) -> ssl.SSLContext:
    context = _context(side, ssl.TLSVersion.TLSv1_2 if foreign else ssl.TLSVersion.TLSv1_3)
    if foreign:
        context.set_ciphers(FOREIGN_SUITES)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN  # an approved CA may be an intermediate one (sheet 12)
    _anchor(context, anchors)
    return context


def _context(side: ssl._SSLMethod, oldest: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = oldest
    context.check_hostname = False  # boxes are known by the registered hash of their certificate, never by name
    context.set_ecdh_curve(GROUP)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # a cut connection must not look like one that was closed
    return context


def _pin(context: ssl.SSLContext, certificates: Iterable[bytes]) -> None:
    context.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    _anchor(context, certificates)


def _anchor(context: ssl.SSLContext, certificates: Iterable[bytes]) -> None:
    data = b"".join(certificates)
    if data:  # without any anchor nobody is believed, which is what it should mean
        context.load_verify_locations(cadata=data)
