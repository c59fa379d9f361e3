"""PKCS#10 certificate requests for keys that stay in a token: the few lines of DER that a library would only write for its own keys.

Pure. RFC 2986. Names and extension values are encoded by `cryptography`; the public key is copied from the token with its curve by name.
Requested key usage as X-Road's (sheet 9.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from appliance.errors import RefusedError
from appliance.hsm import keyring

_SEQUENCE, _SET, _BIT_STRING, _OCTET_STRING, _ATTRIBUTES = 0x30, 0x31, 0x03, 0x04, 0xA0
_VERSION_0 = bytes.fromhex("020100")
_EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")
_SUBJECT_ALTERNATIVE_NAME = bytes.fromhex("0603551d11")
_KEY_USAGE = bytes.fromhex("0603551d0f")
_SIGNATURES = {
    "EC-P256": ("sha256", bytes.fromhex("300a06082a8648ce3d040302")),
    "EC-P384": ("sha384", bytes.fromhex("300a06082a8648ce3d040303")),
    "RSA-2048": ("sha256", bytes.fromhex("300d06092a864886f70d01010b0500")),
    "RSA-3072": ("sha256", bytes.fromhex("300d06092a864886f70d01010b0500")),
}
SUBJECT_ATTRIBUTES_MAX = 16

Sign = Callable[[str, bytes], bytes]
"""`sign(hash_name, to_be_signed) -> signature`, DER for ECDSA."""


class SubjectError(RefusedError):
    """The asked subject or names cannot stand in a certificate."""

    kind = "key.subject_malformed"


def request(label: str, algorithm: str, public_key: bytes, subject: Sequence[tuple[str, str]], names: Sequence[str], sign: Sign) -> bytes:
    """The request, DER. `subject`: (dotted OID, value) in order; `names`: `DNS:...` or `IP:...`. Raises SubjectError."""
    extensions = _extension(_KEY_USAGE, _key_usage(keyring.use_of(label)).public_bytes())
    if names:
        extensions += _extension(_SUBJECT_ALTERNATIVE_NAME, _alternative_names(names).public_bytes())
    attribute = _der(_SEQUENCE, _EXTENSION_REQUEST + _der(_SET, _der(_SEQUENCE, extensions)))
    information = _der(_SEQUENCE, _VERSION_0 + _name(subject) + public_key + _der(_ATTRIBUTES, attribute))
    hash_name, identifier = _SIGNATURES[algorithm]
    signature = sign(hash_name, information)
    return _der(_SEQUENCE, information + identifier + _der(_BIT_STRING, b"\0" + signature))


def _key_usage(use: str) -> x509.KeyUsage:
    """Seals: nonRepudiation. TLS: digitalSignature, keyEncipherment, dataEncipherment. The log's checkpoints: digitalSignature."""
    return x509.KeyUsage(
        digital_signature=use != keyring.SEAL,
        content_commitment=use == keyring.SEAL,
        key_encipherment=use == keyring.TLS,
        data_encipherment=use == keyring.TLS,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(subject: Sequence[tuple[str, str]]) -> bytes:
    if not 1 <= len(subject) <= SUBJECT_ATTRIBUTES_MAX:
        raise SubjectError(f"a subject has 1 to {SUBJECT_ATTRIBUTES_MAX} attributes")
    try:
        return x509.Name([x509.NameAttribute(ObjectIdentifier(oid), value) for oid, value in subject]).public_bytes()
    except ValueError as error:
        raise SubjectError(str(error)) from None


def _alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for name in names:
        kind, _, value = name.partition(":")
        try:
            if kind == "DNS" and value:
                found.append(x509.DNSName(value))
            elif kind == "IP":
                found.append(x509.IPAddress(ip_address(value)))
            else:
                raise SubjectError(f"{name[:80]!r}: neither DNS:... nor IP:...")
        except ValueError as error:
            raise SubjectError(str(error)) from None
    return x509.SubjectAlternativeName(found)


def _extension(oid: bytes, value: bytes) -> bytes:
    return _der(_SEQUENCE, oid + _der(_OCTET_STRING, value))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content
