"""What a PKCS#11 module has in its slots, and how a token is initialised: the one call that the library leaves out is made by hand.

`C_InitToken` goes through ctypes to the same module, by its list of functions: some modules export nothing else. PINs pass in memory, never
in argv.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_ubyte, c_ulong, c_void_p
from dataclasses import replace
from functools import cache
from typing import Any

import pkcs11
from pkcs11 import PKCS11Error, TokenFlag

from appliance.hsm import token
from appliance.hsm.token import MechanismMissingError, PinRejectedError, SeveralTokensError, TokenAbsentError, TokenSeen

_PIN_INCORRECT, _PIN_INVALID, _PIN_LEN_RANGE, _PIN_LOCKED = 0xA0, 0xA1, 0xA2, 0xA4
_LABEL_BYTES = 32
_OK = 0
_INITIALIZE, _FINALIZE, _INIT_TOKEN = 0, 1, 9
"""Places in CK_FUNCTION_LIST (PKCS#11 2.40)."""


def seen(module: Any, label: str, serial: str) -> list[TokenSeen]:
    """Every token of the module. `chosen`: the one that the settings name; none where they name several."""
    found: list[TokenSeen] = []
    for one in _tokens(module):
        chosen = bool(one.flags & TokenFlag.TOKEN_INITIALIZED) and _is_named(one, label, serial)
        state = _state(one) if one.flags & TokenFlag.TOKEN_INITIALIZED else token.UNINITIALISED
        found.append(TokenSeen("pkcs11", one.label.strip(), serial_of(one), _text(one.model), state, chosen))
    is_one = sum(one.chosen for one in found) == 1
    return [replace(one, chosen=one.chosen and is_one) for one in found]


def initialise(module: Any, path: str, label: str, serial: str, so_pin: str) -> None:
    """Erases the token that the settings name, or else the one uninitialised token there is, and gives it our label.

    The module must be initialised anew afterwards. Raises SeveralTokensError, TokenAbsentError, PinRejectedError (SO PIN).
    """
    chosen = _to_initialise(_tokens(module), label, serial)
    name, secret = (label or chosen.label).encode()[:_LABEL_BYTES].ljust(_LABEL_BYTES), so_pin.encode()
    own = _call(path, _INITIALIZE, None)  # some modules give every caller an instance of its own
    try:
        pin = (c_ubyte * len(secret)).from_buffer_copy(secret)
        result = _call(path, _INIT_TOKEN, c_ulong(chosen.slot.slot_id), pin, c_ulong(len(secret)), name)
    finally:
        if own == _OK:
            _call(path, _FINALIZE, None)
    if result in (_PIN_INCORRECT, _PIN_INVALID, _PIN_LEN_RANGE, _PIN_LOCKED):
        raise PinRejectedError(0 if result == _PIN_LOCKED else None)
    if result:
        raise MechanismMissingError(f"C_InitToken: CKR {result:#x}")


@cache
def _functions(path: str) -> Any:
    """The module's CK_FUNCTION_LIST: its version, padded, and then the functions in the order of the standard."""
    found = POINTER(c_void_p)()
    result = ctypes.CDLL(path).C_GetFunctionList(byref(found))
    if result:
        raise MechanismMissingError(f"C_GetFunctionList: CKR {result:#x}")
    return found


def _call(path: str, place: int, *arguments: Any) -> int:
    shape = ctypes.CFUNCTYPE(c_ulong, *(c_void_p if one is None or isinstance(one, bytes) else type(one) for one in arguments))
    return int(shape(_functions(path)[1 + place])(*arguments))


def set_first_pin(found: Any, so_pin: str, pin: str) -> None:
    """The user's PIN of a token that was just initialised. Raises PinRejectedError for one that the token does not take."""
    try:
        with found.open(rw=True, so_pin=so_pin) as session:
            session.init_pin(pin)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
        raise PinRejectedError(None) from None
    except PKCS11Error as error:
        raise TokenAbsentError(f"the token did not take its first PIN: {type(error).__name__}") from None


def serial_of(found: Any) -> str:
    return bytes(found.serial).decode("ascii", "replace").strip()


def _tokens(module: Any) -> list[Any]:
    try:
        return [slot.get_token() for slot in module.get_slots(token_present=True)]
    except PKCS11Error as error:
        raise TokenAbsentError(f"the module does not answer: {type(error).__name__}") from None


def _to_initialise(found: list[Any], label: str, serial: str) -> Any:
    named = [one for one in found if one.flags & TokenFlag.TOKEN_INITIALIZED and _is_named(one, label, serial)]
    empty = [one for one in found if not one.flags & TokenFlag.TOKEN_INITIALIZED and (not serial or serial_of(one) == serial)]
    candidates = named or empty
    if len(candidates) > 1:
        raise SeveralTokensError(f"{len(candidates)} tokens could be meant: name one by signer.token_serial")
    if not candidates:
        raise TokenAbsentError("neither the token that the settings name nor one that is not initialised")
    return candidates[0]


def _is_named(one: Any, label: str, serial: str) -> bool:
    return (not label or one.label.strip() == label) and (not serial or serial_of(one) == serial)


def _state(one: Any) -> str:
    return token.PIN_LOCKED if one.flags & TokenFlag.USER_PIN_LOCKED else token.LOCKED


def _text(value: Any) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()
