"""The secret key of a PKCS#11 token: an HMAC key, or where the token has none, an EC key that only derives (`hsm.wrapping_point`)."""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, PKCS11Error
from pkcs11.mechanisms import KDF

from appliance.hsm import token, wrapping_point
from appliance.hsm.token import MechanismMissingError

DERIVES = ".ecdh"
"""Behind the label of a key that derives: what tells it, in any module, from a key that signs."""
PRIVATE = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
_READABLE = {Attribute.TOKEN: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
"""Of the product of one derivation: it is what was asked for."""


def found(session: Any) -> dict[str, Any]:
    """Secret keys by our label: the objects that `mac` takes."""
    secrets = session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.GENERIC_SECRET})
    named = {one[Attribute.LABEL]: one for one in secrets}
    pairs = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.EC})
    deriving = {one[Attribute.LABEL].removesuffix(DERIVES): one for one in pairs if one[Attribute.LABEL].endswith(DERIVES)}
    return deriving | named


def make_hmac(session: Any, label: str, key_id: bytes) -> None:
    """Raises PKCS11Error where the token makes none, MechanismMissingError where it would make one that can be read."""
    key = session.generate_key(
        KeyType.GENERIC_SECRET,
        token.SECRET_BYTES * 8,
        id=key_id,
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
        template=PRIVATE,
    )
    require_unreadable(key)
    _try(key)


def make_deriving(session: Any, label: str, key_id: bytes, curve: bytes) -> None:
    """As `make_hmac`. `curve`: CKA_EC_PARAMS of P-256."""
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: curve}, local=True)
    public, private = parameters.generate_keypair(
        id=key_id, label=label + DERIVES, store=True, capabilities=MechanismFlag.DERIVE, private_template=PRIVATE
    )
    require_unreadable(private, public)
    _try(private, public)


def mac(key: Any, data: bytes) -> bytes:
    """32 bytes that only this token tells. Raises PKCS11Error."""
    if key.key_type == KeyType.GENERIC_SECRET:
        return bytes(key.sign(data, mechanism=Mechanism.SHA256_HMAC))
    product = key.derive_key(
        KeyType.GENERIC_SECRET,
        256,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, wrapping_point.point(data)),
        capabilities=MechanismFlag(0),
        template=_READABLE,
    )
    value = bytes(product[Attribute.VALUE])
    product.destroy()
    return wrapping_point.secret(data, value)


def _try(key: Any, *beside: Any) -> None:
    """A token may make a key that it cannot use, a module may drop a mechanism's parameters: shown here, not with the first body."""
    try:
        mac(key, b"")
    except PKCS11Error:
        for one in (key, *beside):
            one.destroy()
        raise


def require_unreadable(key: Any, *beside: Any) -> None:
    """Destroys a key that the token would give away, with its public half. Raises MechanismMissingError."""
    if not key[Attribute.SENSITIVE] or key[Attribute.EXTRACTABLE]:
        for one in (key, *beside):
            one.destroy()
        raise MechanismMissingError("the token makes keys that can be read: it is not used")
