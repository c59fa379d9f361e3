"""Raw signatures over bytes: which algorithms are believed, and how each is checked.

Pure. Used for OCSP responses, time-stamp tokens and the signed directory. SHA-1 and MD5 are refused everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from appliance.model.certificates import PARSER_ERRORS, PublicKey

HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256,
    "2.16.840.1.101.3.4.2.2": hashes.SHA384,
    "2.16.840.1.101.3.4.2.3": hashes.SHA512,
}
"""Digest algorithms by OID."""

RSA_KEY_BITS_MIN = 2048


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signature algorithm: `rsa`, `rsa-pss` (salt as long as the digest) or `ecdsa`, with its digest."""

    family: str
    digest: type[hashes.HashAlgorithm]


BY_OID: dict[str, Scheme] = {
    "1.2.840.113549.1.1.11": Scheme("rsa", hashes.SHA256),
    "1.2.840.113549.1.1.12": Scheme("rsa", hashes.SHA384),
    "1.2.840.113549.1.1.13": Scheme("rsa", hashes.SHA512),
    "1.2.840.10045.4.3.2": Scheme("ecdsa", hashes.SHA256),
    "1.2.840.10045.4.3.3": Scheme("ecdsa", hashes.SHA384),
    "1.2.840.10045.4.3.4": Scheme("ecdsa", hashes.SHA512),
}
"""X.509, OCSP and CMS names."""

_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_PSS = "http://www.w3.org/2007/05/xmldsig-more#"
BY_URI: dict[str, Scheme] = {
    f"{_MORE}rsa-sha256": Scheme("rsa", hashes.SHA256),
    f"{_MORE}rsa-sha384": Scheme("rsa", hashes.SHA384),
    f"{_MORE}rsa-sha512": Scheme("rsa", hashes.SHA512),
    f"{_MORE}ecdsa-sha256": Scheme("ecdsa", hashes.SHA256),
    f"{_MORE}ecdsa-sha384": Scheme("ecdsa", hashes.SHA384),
    f"{_MORE}ecdsa-sha512": Scheme("ecdsa", hashes.SHA512),
    f"{_PSS}sha256-rsa-MGF1": Scheme("rsa-pss", hashes.SHA256),
    f"{_PSS}sha384-rsa-MGF1": Scheme("rsa-pss", hashes.SHA384),
    f"{_PSS}sha512-rsa-MGF1": Scheme("rsa-pss", hashes.SHA512),
}
"""XML signature names, used by the signed directory (sheet 6.3)."""


def is_genuine(key: PublicKey, scheme: Scheme, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (ECDSA: DER) is this key's over `data`. A key of another kind, or a weak one, signs nothing."""
    digest = scheme.digest()
    try:
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_KEY_BITS_MIN:
            if scheme.family == "rsa":
                key.verify(signature, data, padding.PKCS1v15(), digest)
                return True
            if scheme.family == "rsa-pss":
                key.verify(signature, data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
                return True
        elif isinstance(key, ec.EllipticCurvePublicKey) and scheme.family == "ecdsa":
            key.verify(signature, data, ec.ECDSA(digest))
            return True
    except InvalidSignature:
        return False
    except PARSER_ERRORS:
        return False
    return False
