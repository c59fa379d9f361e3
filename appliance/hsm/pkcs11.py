"""A token behind a PKCS#11 module: USB HSMs by their own modules, SoftHSM2 behind `p11-kit server` in the laboratory.

The token is chosen by label or serial, never by slot. A token that vanished (any error of the module that is not about the request) is
given up at once; the module is finalised and initialised anew at the next `check`, which finds a server or a stick that came back. The PIN
is remembered for that, and forgotten for good at the first refusal: a token counts wrong PINs down to a lock.

`C_Initialize` is called without locking: one thread owns this object and everything of its module.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, PKCS11Error, TokenFlag

from appliance.errors import SettingsError
from appliance.hsm import pkcs11_secrets, pkcs11_slots, token
from appliance.hsm.pkcs11_secrets import DERIVES
from appliance.hsm.pkcs11_slots import serial_of
from appliance.hsm.socket_paths import reachable
from appliance.hsm.token import (
    KeyExistsError,
    KeyMissingError,
    MechanismMissingError,
    PinLockedError,
    PinRejectedError,
    TokenAbsentError,
    TokenFacts,
    TokenKey,
    TokenLockedError,
    TokenSeen,
)

SERVER_ADDRESS = "P11_KIT_SERVER_ADDRESS"
"""The one interface through which p11-kit's client module learns where its server listens."""

_CURVES: dict[str, ec.EllipticCurve] = {token.EC_P256: ec.SECP256R1(), token.EC_P384: ec.SECP384R1()}
_CURVE_OIDS = {token.EC_P256: bytes.fromhex("06082a8648ce3d030107"), token.EC_P384: bytes.fromhex("06052b81040022")}
"""CKA_EC_PARAMS: the curve by name. Explicit parameters are refused by peers and are never written."""
_RSA_BITS = {token.RSA_2048: 2048, token.RSA_3072: 3072}

_PIN_WRONG = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinExpired, pkcs11.UserPinNotInitialized)
_NOT_MADE = (
    pkcs11.ArgumentsBad,
    pkcs11.AttributeTypeInvalid,
    pkcs11.AttributeValueInvalid,
    pkcs11.DomainParamsInvalid,
    pkcs11.FunctionNotSupported,
    pkcs11.KeySizeRange,
    pkcs11.MechanismInvalid,
    pkcs11.MechanismParamInvalid,
    pkcs11.TemplateInconsistent,
)
"""Errors that speak of the request; every other one means that the token, its session or its server is gone."""

_OURS = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, ObjectClass.SECRET_KEY)


class Pkcs11Token:
    """One token of one module. Invariant: after a refused PIN no PIN reaches the token until a person calls `login`."""

    def __init__(self, module: str, *, label: str = "", serial: str = "", address: str = "", configuration: str = "") -> None:
        if not Path(module).is_file():
            raise SettingsError(f"signer.module: {module or 'missing'} is not a file")
        if not label and not serial:
            raise SettingsError("signer.token_label: name the token by label or serial, a first slot is never taken")
        if address:
            scheme, _, path = address.partition("=")
            os.environ[SERVER_ADDRESS] = f"{scheme}={reachable(path)}"  # noqa: TID251  the module's own interface
        if configuration:
            name, _, file = configuration.partition("=")
            os.environ[name] = file  # noqa: TID251  the same
        self._module, self._label, self._serial, self._serial_given = module, label, serial, serial
        self._pin: str | None = None
        self._refusal: PinRejectedError | PinLockedError | None = None
        self._session: Any = None
        self._found: Any = None
        self._private: dict[str, tuple[Any, str]] = {}
        """Private key and algorithm by label, as the token showed them last."""

    def login(self, pin: str) -> None:
        """Remembers the PIN and offers it once; where the token is away, once when it comes."""
        self._pin, self._refusal = pin, None
        self._connect(by_person=True)

    def change_pin(self, pin: str, new_pin: str) -> None:
        self._require()
        try:
            self._session.set_pin(pin, new_pin)
        except _PIN_WRONG:
            raise PinRejectedError(_tries_left(self._now())) from None
        except PKCS11Error as error:
            raise self._gone(error) from None
        self._pin = new_pin

    def initialise(self, so_pin: str, pin: str) -> None:
        """With the SO PIN that the token has, or gets. Logged in with the new PIN afterwards."""
        self._forget_session()
        self._pin, self._refusal = None, None
        pkcs11_slots.initialise(self._module_anew(), self._module, self._label, self._serial, so_pin)
        self._serial = self._serial_given  # initialising may give the token another serial number
        pkcs11_slots.set_first_pin(self._find(), so_pin, pin)
        self.login(pin)

    def seen(self) -> Sequence[TokenSeen]:
        module = self._module_anew() if self._session is None else pkcs11.lib(self._module)
        found = pkcs11_slots.seen(module, self._label, self._serial)
        ready = self._session is not None
        return [replace(one, state=token.READY) if one.chosen and ready else one for one in found]

    def check(self) -> TokenFacts:
        """As the protocol says; never raises for what a state can say."""
        try:
            if self._session is None:
                self._connect(by_person=False)
            else:
                self._probe()
        except PinRejectedError as error:
            return self._facts(token.PIN_REJECTED, error.tries_left)
        except PinLockedError:
            return self._facts(token.PIN_LOCKED, 0)
        except TokenLockedError:
            return self._facts(token.LOCKED, _tries_left(self._found))
        except TokenAbsentError as error:
            return self._facts(token.ABSENT, None, str(error))
        return self._facts(token.READY, None)

    def keys(self) -> Sequence[TokenKey]:
        self._require()
        self._probe()
        try:
            self._private = self._load_private()
            found = self._session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY})
            public = {one[Attribute.LABEL]: one for one in found}
            pairs = [_record(label, public[label], made[1]) for label, made in self._private.items() if label in public]
            return pairs + [TokenKey(label, token.HMAC_SHA256, b"") for label in pkcs11_secrets.found(self._session)]
        except PKCS11Error as error:
            raise self._gone(error) from None

    def generate(self, label: str, algorithm: str) -> TokenKey:
        token.check_algorithm(algorithm)
        if any(key.label == label for key in self.keys()):
            raise KeyExistsError(label)
        try:
            if algorithm == token.HMAC_SHA256:
                self._make_secret(label)
                return TokenKey(label, algorithm, b"")
            public, private = self._pair(label, algorithm)
            pkcs11_secrets.require_unreadable(private, public)
            self._private[label] = private, algorithm
            return _record(label, public, algorithm)
        except _NOT_MADE as error:
            raise MechanismMissingError(f"{algorithm}: {type(error).__name__}") from None
        except PKCS11Error as error:
            raise self._gone(error) from None

    def sign_digest(self, label: str, digest: bytes, hash_name: str) -> bytes:
        """Once more after a reconnection where the session broke: a token that was replugged in between costs no request."""
        token.check_digest(digest, hash_name)
        self._require()
        try:
            return self._sign(label, digest, hash_name)
        except pkcs11.MechanismInvalid:
            raise MechanismMissingError(f"{label}: {hash_name}") from None
        except PKCS11Error as error:
            self._gone(error)
        self._connect(by_person=False)
        try:
            return self._sign(label, digest, hash_name)
        except PKCS11Error as error:
            raise self._gone(error) from None

    def mac(self, label: str, data: bytes) -> bytes:
        self._require()
        self._probe()
        try:
            key = pkcs11_secrets.found(self._session).get(label)
            if key is None:
                raise KeyMissingError(label)
            return pkcs11_secrets.mac(key, data)
        except _NOT_MADE as error:
            raise MechanismMissingError(f"{label}: {type(error).__name__}") from None
        except PKCS11Error as error:
            raise self._gone(error) from None

    def delete(self, label: str) -> None:
        self._require()
        self._probe()
        try:
            found = [one for name in (label, label + DERIVES) for one in self._session.get_objects({Attribute.LABEL: name})]
            mine = [one for one in found if one[Attribute.CLASS] in _OURS]
            for one in mine:
                one.destroy()
        except PKCS11Error as error:
            raise self._gone(error) from None
        self._private.pop(label, None)
        if not mine:
            raise KeyMissingError(label)

    def close(self) -> None:
        """Logs out and unloads the module, so that another token of the same module can be opened afterwards."""
        self._forget_session()
        with contextlib.suppress(PKCS11Error):
            pkcs11.unload(self._module)

    def _connect(self, *, by_person: bool) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._forget_session()
        found = self._find()
        if found.flags & TokenFlag.USER_PIN_LOCKED:  # it says so itself: nothing is offered, not even by a person
            raise self._refused(PinLockedError(found.label)) if self._pin else PinLockedError(found.label)
        if self._pin is None:
            raise TokenLockedError(f"{found.label} waits for its PIN")
        if not by_person and found.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise self._refused(PinRejectedError(1))  # one more wrong one would lock it: a person decides
        try:
            self._session = found.open(rw=True, user_pin=self._pin)
            self._private = self._load_private()
        except pkcs11.PinLocked:
            raise self._refused(PinLockedError(found.label)) from None
        except _PIN_WRONG:
            raise self._refused(PinRejectedError(_tries_left(self._now()))) from None
        except PKCS11Error as error:
            raise self._gone(error) from None
        self._serial = self._serial or serial_of(found)  # another token of the same label is not ours

    def _find(self) -> Any:
        """The token, through a module initialised anew: a module keeps what it saw first, also that its server was away."""
        wanted: dict[str, Any] = {}
        if self._label:
            wanted["token_label"] = self._label
        if self._serial:
            wanted["token_serial"] = self._serial.encode()
        try:
            self._found = self._module_anew().get_token(**wanted)
        except pkcs11.MultipleTokensReturned:
            raise TokenAbsentError(f"several tokens are called {self._label}: name one by signer.token_serial") from None
        except (PKCS11Error, pkcs11.NoSuchToken) as error:
            raise TokenAbsentError(f"no token {self._label or self._serial}: {type(error).__name__}") from None
        return self._found

    def _module_anew(self) -> Any:
        try:
            module = pkcs11.lib(self._module)
            module.reinitialize()
        except PKCS11Error as error:
            raise TokenAbsentError(f"the module does not answer: {type(error).__name__}") from None
        return module

    def _now(self) -> Any:
        """The token's flags as they are now, after a refusal; what was seen before where it does not answer."""
        with contextlib.suppress(PKCS11Error):
            self._found = self._found.slot.get_token()
        return self._found

    def _probe(self) -> None:
        """Asks for the token and for a key's attribute: the one finds a pulled stick, the other a session that broke. Reconnects once.

        Also before every search: the library's search cannot fail cleanly on a session that is gone.
        """
        try:
            if serial_of(self._found.slot.get_token()) != self._serial:
                raise self._gone(pkcs11.TokenNotPresent())
            for key, _ in self._private.values():
                key[Attribute.CLASS]  # the question itself, its answer does not matter
                break
        except PKCS11Error as error:
            self._gone(error)
            self._connect(by_person=False)

    def _require(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._session is None:
            raise TokenLockedError("the token waits for its PIN") if self._pin is None else TokenAbsentError("the token is away")

    def _refused(self, refusal: PinRejectedError | PinLockedError) -> PinRejectedError | PinLockedError:
        self._pin, self._refusal, self._session = None, refusal, None
        return refusal

    def _gone(self, error: PKCS11Error) -> TokenAbsentError:
        self._forget_session()
        return TokenAbsentError(f"{self._label or self._serial}: {type(error).__name__}")

    def _forget_session(self) -> None:
        """Without logout: the module is finalised before it is used again, which ends every session."""
        self._session, self._private = None, {}

    def _facts(self, state: str, tries_left: int | None, reason: str = "") -> TokenFacts:
        return TokenFacts("pkcs11", self._label, self._serial, state, tries_left, reason)

    def _load_private(self) -> dict[str, tuple[Any, str]]:
        found = self._session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        known = ((one, _algorithm(one)) for one in found)
        named = {one[Attribute.LABEL]: (one, algorithm) for one, algorithm in known if algorithm is not None}
        return {label: key for label, key in named.items() if not label.endswith(DERIVES)}

    def _make_secret(self, label: str) -> None:
        """A token without HMAC (a SmartCard-HSM) makes a key that derives instead."""
        try:
            pkcs11_secrets.make_hmac(self._session, label, _id(label))
        except _NOT_MADE:
            pkcs11_secrets.make_deriving(self._session, label, _id(label), _CURVE_OIDS[token.EC_P256])

    def _sign(self, label: str, digest: bytes, hash_name: str) -> bytes:
        if label not in self._private:
            self._private = self._load_private()  # made by other means meanwhile
        if label not in self._private:
            raise KeyMissingError(label)
        key, algorithm = self._private[label]
        if algorithm in _RSA_BITS:
            return bytes(key.sign(token.DIGEST_INFO[hash_name] + digest, mechanism=Mechanism.RSA_PKCS))
        value = key.sign(token.truncated(digest, algorithm), mechanism=Mechanism.ECDSA)
        half = len(value) // 2
        return encode_dss_signature(int.from_bytes(value[:half]), int.from_bytes(value[half:]))

    def _pair(self, label: str, algorithm: str) -> tuple[Any, Any]:
        shared: dict[str, Any] = {
            "id": _id(label),
            "label": label,
            "store": True,
            "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
            "private_template": pkcs11_secrets.PRIVATE,
        }
        if algorithm in _RSA_BITS:
            made = self._session.generate_keypair(KeyType.RSA, _RSA_BITS[algorithm], **shared)
        else:
            named = {Attribute.EC_PARAMS: _CURVE_OIDS[algorithm]}
            curve = self._session.create_domain_parameters(KeyType.EC, named, local=True)
            made = curve.generate_keypair(**shared)
        return made[0], made[1]


def _id(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()[:16]


def _algorithm(key: Any) -> str | None:
    """The algorithm of a key object; None where it is none of ours."""
    if key.key_type == KeyType.RSA:
        bits = len(key[Attribute.MODULUS]) * 8
        return next((name for name, size in _RSA_BITS.items() if size == bits), None)
    if key.key_type != KeyType.EC:
        return None
    parameters = key[Attribute.EC_PARAMS]
    return next((name for name, oid in _CURVE_OIDS.items() if oid == parameters), None)


def _record(label: str, public: Any, algorithm: str) -> TokenKey:
    """The public half as SubjectPublicKeyInfo. CKA_EC_POINT is an OCTET STRING around the point; some modules leave the point bare."""
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    if algorithm in _RSA_BITS:
        exponent, modulus = int.from_bytes(public[Attribute.PUBLIC_EXPONENT]), int.from_bytes(public[Attribute.MODULUS])
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    else:
        size = 1 + 2 * token.CURVE_BYTES[algorithm]
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[algorithm], public[Attribute.EC_POINT][-size:])
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return TokenKey(label, algorithm, key.public_bytes(encoding, form))


def _tries_left(found: Any) -> int | None:
    """PKCS#11 tells no number, only the two last steps before the lock."""
    if found is None:
        return None
    if found.flags & TokenFlag.USER_PIN_LOCKED:
        return 0
    return 1 if found.flags & TokenFlag.USER_PIN_FINAL_TRY else None
