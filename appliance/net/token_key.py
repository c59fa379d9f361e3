"""Python's `ssl` with a private key that it never sees: the signature of a handshake is made by a callback.

The standard library takes keys from files only. Below it OpenSSL lets an EC_KEY carry its own sign function (EC_KEY_METHOD); the key is
made from the certificate's public half and handed to the SSL_CTX inside the SSLContext, found at a private but stable offset. Hence
`self_test`, which every process that uses this calls before it listens: where the trick does not hold, the process does not start.

EC keys only (P-256, P-384). With RSA, TLS 1.3 would ask for a raw private operation: an oracle that the signer does not have.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import ssl
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_void_p
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from appliance.errors import CorruptStateError, XacbeError
from appliance.hsm.token import MechanismMissingError
from appliance.journal import event

Sign = Callable[[bytes], bytes]
"""`sign(digest) -> DER ECDSA-Sig-Value`. Called in the thread that does the handshake; may block, may raise XacbeError leaves."""

_SSL_CTRL_CHAIN_CERT, _ADD_A_REFERENCE = 89, 1
_SSL_CTRL_MODE, _NO_AUTO_CHAIN = 33, 0x8
_CRYPTO_EX_INDEX_EC_KEY = 8
_PURPOSE_ANY = 7
_SIGN = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_int, c_void_p, POINTER(c_uint), c_void_p, c_void_p, c_void_p)
_SIGN_SIG = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_void_p)

_VERIFY = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_ACCEPT_ANY = _VERIFY(lambda store, argument: 1)

_log = logging.getLogger(__name__)
_signers: dict[int, Sign] = {}
"""Sign callbacks by the number that their EC_KEY carries; an entry lives as long as its context."""
_numbers = itertools.count(1)


class TokenKeyUnusableError(CorruptStateError):
    """This Python and this OpenSSL do not do what `use_token_key` needs: the process must not start."""

    kind = "tls.token_key_unusable"


def use_token_key(context: ssl.SSLContext, chain: Sequence[bytes], sign: Sign) -> None:
    """Gives the context our certificate chain (DER, our own first) and a key that signs through the callback.

    Raises MechanismMissingError for a certificate whose key is not EC, TokenKeyUnusableError where OpenSSL refuses.
    """
    if not isinstance(x509.load_der_x509_certificate(chain[0]).public_key(), ec.EllipticCurvePublicKey):
        raise MechanismMissingError("a TLS key of the token must be EC")
    library = _library()
    pointer = c_void_p.from_address(id(context) + object.__basicsize__)  # PySSLContext.ctx, the first field after the object's head
    own = _certificate(chain[0])
    try:
        _expect(library.ssl.SSL_CTX_use_certificate(pointer, own) == 1, "the certificate")
        # Only what we put there is sent: OpenSSL would add the CAs of its trust store, and X-Road wants an OCSP response for each (sheet
        # 3.2)
        library.ssl.SSL_CTX_ctrl(pointer, _SSL_CTRL_MODE, c_long(_NO_AUTO_CHAIN), None)
        for der in chain[1:]:
            issuer = _certificate(der)
            taken = library.ssl.SSL_CTX_ctrl(pointer, _SSL_CTRL_CHAIN_CERT, c_long(_ADD_A_REFERENCE), issuer)
            library.crypto.X509_free(issuer)
            _expect(taken == 1, "an issuer")
        number = next(_numbers)
        key = _external_key(own, number)
        _signers[number] = sign
        weakref.finalize(context, _signers.pop, number, None)
        taken = library.ssl.SSL_CTX_use_PrivateKey(pointer, key)
        library.crypto.EVP_PKEY_free(key)
        _expect(taken == 1, "the key")
    finally:
        library.crypto.X509_free(own)


def accept_any_certificate(context: ssl.SSLContext) -> None:
    """For port 8443 only: whatever certificate an information system shows passes the handshake (its key is proved there), and is
    compared byte for byte with the client's registered ones afterwards (sheet 2.1, 9.2). Never for connections between boxes.
    """
    pointer = c_void_p.from_address(id(context) + object.__basicsize__)
    _library().ssl.SSL_CTX_set_cert_verify_callback(pointer, _ACCEPT_ANY, None)


def accept_any_purpose(context: ssl.SSLContext) -> None:
    """For connections between boxes: OpenSSL does not look at key usages. X-Road takes certificates with clientAuth alone, with both uses,
    and without extended usage on both sides of a connection (sheet 3.2, 5.2); OpenSSL wants serverAuth of a server. Which certificate may
    stand here is decided by `exchange.peer_trust`, on every connection, before a message counts.
    """
    pointer = c_void_p.from_address(id(context) + object.__basicsize__)
    _expect(_library().ssl.SSL_CTX_set_purpose(pointer, _PURPOSE_ANY) == 1, "a context without purpose")


def bound_chain(context: ssl.SSLContext, issuers_max: int) -> None:
    """For connections between boxes: at most so many authorities between the peer's certificate and an anchor. OpenSSL's own bound is a
    hundred, each with a signature to verify, and whoever reaches the port chooses the chain.
    """
    pointer = c_void_p.from_address(id(context) + object.__basicsize__)
    _library().ssl.SSL_CTX_set_verify_depth(pointer, issuers_max)


def self_test() -> None:
    """A mutual TLS 1.3 handshake in memory, both keys behind callbacks. Raises TokenKeyUnusableError; call it before listening."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _throw_away_certificate(key)
    signed = []

    def sign(digest: bytes) -> bytes:
        signed.append(digest)
        return key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))

    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=certificate)
        use_token_key(context, [certificate], sign)
        contexts.append(context)
    try:
        _handshake(*contexts)
    except ssl.SSLError as error:
        raise TokenKeyUnusableError(f"the handshake with a callback key failed: {error}") from None
    if len(signed) != 2:
        raise TokenKeyUnusableError(f"the callback was asked {len(signed)} times in a mutual handshake, not twice")


class _Library:
    """libcrypto and libssl that Python's own `_ssl` is linked with, with the one method and its place in an EC_KEY."""

    def __init__(self) -> None:
        self.crypto, self.ssl = (ctypes.CDLL(_mapped(name)) for name in ("libcrypto.so", "libssl.so"))
        for name in (
            "d2i_X509", "X509_get_pubkey", "EVP_PKEY_get1_EC_KEY", "EC_KEY_dup", "EVP_PKEY_new",
            "EC_KEY_METHOD_new", "EC_KEY_OpenSSL", "EC_KEY_get_ex_data", "d2i_ECDSA_SIG",
        ):  # fmt: skip
            getattr(self.crypto, name).restype = c_void_p
        self.crypto.ERR_clear_error.restype = None
        self.crypto.ECDSA_size.argtypes = [c_void_p]
        self.crypto.EC_KEY_get_ex_data.argtypes = [c_void_p, c_int]
        for name in ("X509_free", "EVP_PKEY_free", "EC_KEY_free"):
            getattr(self.crypto, name).argtypes, getattr(self.crypto, name).restype = [c_void_p], None
        for name in ("SSL_CTX_use_certificate", "SSL_CTX_use_PrivateKey"):
            getattr(self.ssl, name).argtypes = [c_void_p, c_void_p]
        self.ssl.SSL_CTX_set_cert_verify_callback.argtypes = [c_void_p, _VERIFY, c_void_p]
        self.ssl.SSL_CTX_set_cert_verify_callback.restype = None
        self.ssl.SSL_CTX_set_purpose.argtypes = [c_void_p, c_int]
        self.ssl.SSL_CTX_set_verify_depth.argtypes, self.ssl.SSL_CTX_set_verify_depth.restype = [c_void_p, c_int], None
        self.ssl.SSL_CTX_ctrl.argtypes, self.ssl.SSL_CTX_ctrl.restype = [c_void_p, c_int, c_long, c_void_p], c_long
        self.place = self.crypto.CRYPTO_get_ex_new_index(_CRYPTO_EX_INDEX_EC_KEY, c_long(0), None, None, None, None)
        # Never freed, like the two callbacks: keys of contexts that are gone may still point at it.
        self.method = c_void_p(self.crypto.EC_KEY_METHOD_new(c_void_p(self.crypto.EC_KEY_OpenSSL())))
        self.callbacks = _SIGN(self._sign), _SIGN_SIG(self._sign_sig)
        self.crypto.EC_KEY_METHOD_set_sign.restype = None
        self.crypto.EC_KEY_METHOD_set_sign(self.method, self.callbacks[0], None, self.callbacks[1])
        _expect(self.place > 0 and self.method.value is not None, "a key method")

    def _sign(self, kind: int, digest: int, length: int, out: int, out_length: Any, kinv: int | None, r: int | None, key: int) -> int:
        signature = self._signature(digest, length, key)
        if signature is None or len(signature) > self.crypto.ECDSA_size(key):
            return 0
        ctypes.memmove(out, signature, len(signature))
        out_length[0] = len(signature)
        return 1

    def _sign_sig(self, digest: int, length: int, kinv: int | None, r: int | None, key: int) -> int | None:
        signature = self._signature(digest, length, key)
        if signature is None:
            return None
        at = c_char_p(signature)
        found: int | None = self.crypto.d2i_ECDSA_SIG(None, byref(at), c_long(len(signature)))
        return found

    def _signature(self, digest: int, length: int, key: int) -> bytes | None:
        """None makes the handshake fail, which is all that OpenSSL can be told; the journal is told the kind."""
        try:
            sign = _signers[self.crypto.EC_KEY_get_ex_data(key, self.place)]
            return sign(ctypes.string_at(digest, length))
        except XacbeError as error:
            event(_log, logging.WARNING, "handshake.not_signed", kind=error.kind, reason=str(error))
        except Exception:  # a bug of the callback must not be lost in C: told whole, and the handshake fails
            _log.exception("handshake.sign_crashed")
        return None


@cache
def _library() -> _Library:
    return _Library()


def _mapped(name: str) -> str:
    """The file of a library that is in this process already. Two different ones would be a gamble: refused."""
    found = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if f"/{name}" in line}
    if len(found) != 1:
        raise TokenKeyUnusableError(f"{name}: {len(found)} of them are loaded, not one")
    return found.pop()


def _expect(holds: bool, what: str) -> None:
    if not holds:
        _library().crypto.ERR_clear_error()
        raise TokenKeyUnusableError(f"OpenSSL does not take {what}")


def _certificate(der: bytes) -> c_void_p:
    at = c_char_p(der)
    found = _library().crypto.d2i_X509(None, byref(at), c_long(len(der)))
    _expect(found is not None, "a certificate")
    return c_void_p(found)


def _external_key(certificate: c_void_p, number: int) -> c_void_p:
    """An EVP_PKEY with the certificate's public key, whose signatures come from `_signers[number]`."""
    crypto, library = _library().crypto, _library()
    public = c_void_p(crypto.X509_get_pubkey(certificate))
    shared = c_void_p(crypto.EVP_PKEY_get1_EC_KEY(public))
    own = c_void_p(crypto.EC_KEY_dup(shared))
    try:
        _expect(own.value is not None, "the public key")
        _expect(crypto.EC_KEY_set_method(own, library.method) == 1, "a key method")
        _expect(crypto.EC_KEY_set_ex_data(own, library.place, c_void_p(number)) == 1, "a key's number")
        key = c_void_p(crypto.EVP_PKEY_new())
        _expect(crypto.EVP_PKEY_set1_EC_KEY(key, own) == 1, "an external key")
    finally:
        for held in (own, shared):
            crypto.EC_KEY_free(held)
        crypto.EVP_PKEY_free(public)
    return key


def _handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(8):
        for side in [*waiting]:
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    if waiting or client.version() != "TLSv1.3":
        raise TokenKeyUnusableError("the handshake with a callback key did not end")


def _throw_away_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Valid for a century around any clock: this test must not fail for the time of day."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    first = datetime(2000, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(first).not_valid_after(first + timedelta(days=36525))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
