"""A token in software: PKCS#8 files, or nothing but memory. For the bench and for tests only.

Refused where the instance is the production one, and absent from the image: the key bytes lie on the disk.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from appliance import durable
from appliance.errors import CorruptStateError, SettingsError
from appliance.hsm import token
from appliance.hsm.token import KeyExistsError, KeyMissingError, MechanismMissingError, TokenFacts, TokenKey, TokenSeen
from appliance.settings import PRODUCTION_INSTANCE

_CURVES: dict[str, ec.EllipticCurve] = {token.EC_P256: ec.SECP256R1(), token.EC_P384: ec.SECP384R1()}
_RSA_BITS = {token.RSA_2048: 2048, token.RSA_3072: 3072}
_HASHES: dict[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class SoftwareToken:
    """Keys of `directory` (one file each, 0600), or of this object alone where it is None."""

    def __init__(self, instance: str, directory: Path | None = None) -> None:
        if instance == PRODUCTION_INSTANCE:
            raise SettingsError(f"signer.token: software is refused in the production instance {PRODUCTION_INSTANCE}")
        self._directory = directory
        self._keys: dict[str, PrivateKey] = {}
        self._secrets: dict[str, bytes] = {}
        if directory is not None:
            durable.make_directory(directory)
            for file in sorted(directory.glob("*.key")):
                self._keys[unquote(file.stem)] = _loaded(file)
            for file in sorted(directory.glob("*.secret")):
                self._secrets[unquote(file.stem)] = file.read_bytes()

    def login(self, pin: str) -> None:
        """There is no PIN."""

    def change_pin(self, pin: str, new_pin: str) -> None:
        raise MechanismMissingError("a software token has no PIN")

    def initialise(self, so_pin: str, pin: str) -> None:
        """There is nothing to initialise."""

    def seen(self) -> Sequence[TokenSeen]:
        return [TokenSeen("software", "software", "", "PKCS#8", token.READY, True)]

    def check(self) -> TokenFacts:
        return TokenFacts("software", "software", "", token.READY)

    def keys(self) -> Sequence[TokenKey]:
        pairs = [_record(label, key) for label, key in self._keys.items()]
        return pairs + [TokenKey(label, token.HMAC_SHA256, b"") for label in self._secrets]

    def generate(self, label: str, algorithm: str) -> TokenKey:
        token.check_algorithm(algorithm)
        if label in self._keys or label in self._secrets:
            raise KeyExistsError(label)
        if algorithm == token.HMAC_SHA256:
            return self._made_secret(label)
        made: PrivateKey
        if algorithm in _CURVES:
            made = ec.generate_private_key(_CURVES[algorithm])
        else:
            made = rsa.generate_private_key(65537, _RSA_BITS[algorithm])
        if self._directory is not None:
            durable.write_file(self._file(label), _encoded(made))
        self._keys[label] = made
        return _record(label, made)

    def sign_digest(self, label: str, digest: bytes, hash_name: str) -> bytes:
        token.check_digest(digest, hash_name)
        key = self._keys.get(label)
        if key is None:
            raise KeyMissingError(label)
        prehashed = Prehashed(_HASHES[hash_name])
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(digest, padding.PKCS1v15(), prehashed)
        return key.sign(digest, ec.ECDSA(prehashed))

    def mac(self, label: str, data: bytes) -> bytes:
        if label not in self._secrets:
            raise KeyMissingError(label)
        return hmac.digest(self._secrets[label], data, "sha256")

    def delete(self, label: str) -> None:
        if self._keys.pop(label, None) is None and self._secrets.pop(label, None) is None:
            raise KeyMissingError(label)
        if self._directory is not None:
            for file in (self._file(label), self._file(label, "secret")):
                file.unlink(missing_ok=True)
            durable.sync_directory(self._directory)

    def close(self) -> None:
        """Nothing is held open."""

    def _made_secret(self, label: str) -> TokenKey:
        made = secrets.token_bytes(token.SECRET_BYTES)
        if self._directory is not None:
            durable.write_file(self._file(label, "secret"), made)
        self._secrets[label] = made
        return TokenKey(label, token.HMAC_SHA256, b"")

    def _file(self, label: str, ending: str = "key") -> Path:
        if self._directory is None:
            raise RuntimeError("a token in memory has no files")
        return self._directory / f"{quote(label, safe='')}.{ending}"


def _encoded(key: PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _loaded(file: Path) -> PrivateKey:
    try:
        key = serialization.load_der_private_key(file.read_bytes(), None)
    except ValueError as error:
        raise CorruptStateError(f"{file}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CorruptStateError(f"{file}: not a key that we make")
    return key


def _record(label: str, key: PrivateKey) -> TokenKey:
    algorithm = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else f"EC-P{key.key_size}"
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return TokenKey(label, algorithm, key.public_key().public_bytes(encoding, form))
