"""Wrapping with a token that has no HMAC: the secret function of its EC key, over SoftHSM2 with the mechanism taken away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import SettingsError
from appliance.hsm import pkcs11_secrets, wrapping, wrapping_point
from appliance.hsm.pkcs11 import Pkcs11Token
from appliance.hsm.token import HMAC_SHA256, KeyMissingError, MechanismMissingError, TokenKey
from appliance.hsm.wire import WrapRequest
from appliance.settings import SignerSettings
from provisioning.lab import tokens
from tests.hsm import parts
from tests.hsm.parts import on_loop
from tests.hsm.signer_box import signer_box
from tests.hsm.test_commands import xacbe

WITHOUT_HMAC = "slots.mechanisms = -CKM_GENERIC_SECRET_KEY_GEN,CKM_SHA256_HMAC\n"
DATA = bytes(range(32))


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pkcs11Token]:
    """A module in this process, as a maker's is in the signer: p11-kit in between would drop the parameters."""
    planned = parts.plan("softhsm", tmp_path / "token")
    with (tmp_path / "token" / "softhsm2.conf").open("a") as file:
        file.write(WITHOUT_HMAC)
    monkeypatch.setenv("SOFTHSM2_CONF", planned.environment["SOFTHSM2_CONF"])
    token = Pkcs11Token(str(tokens.SOFTHSM_MODULE), label="box")
    token.login(parts.PIN)
    yield token
    token.close()


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_every_input_has_a_point_of_its_own_on_the_curve(first: bytes, second: bytes) -> None:
    made = wrapping_point.point(first)
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), made)  # raises for a point that is none
    assert (made == wrapping_point.point(second)) == (first == second)


def test_what_a_token_derives_is_what_the_key_says() -> None:
    key = ec.derive_private_key(12345, ec.SECP256R1())
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), wrapping_point.point(DATA))
    product = key.exchange(ec.ECDH(), point)
    assert len(wrapping_point.secret(DATA, product)) == 32
    assert wrapping_point.secret(DATA, b"\0" + product[1:]) == wrapping_point.secret(DATA, product[1:]) or product[0]


def test_a_token_without_hmac_wraps_all_the_same_and_the_key_only_derives(plain: Pkcs11Token) -> None:
    assert plain.generate("wrap", HMAC_SHA256) == TokenKey("wrap", HMAC_SHA256, b"")
    salt = os.urandom(wrapping.SALT_BYTES)
    first, again = (plain.mac("wrap", wrapping.mac_input(salt)) for _ in range(2))
    assert first == again != plain.mac("wrap", wrapping.mac_input(os.urandom(32)))
    blob = wrapping.wrap(first, salt, DATA, b"body")
    assert wrapping.unwrap(again, blob, b"body") == DATA

    (key,) = plain._session.get_objects({pkcs11.Attribute.LABEL: "wrap.ecdh", pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
    assert (key[pkcs11.Attribute.DERIVE], key[pkcs11.Attribute.SIGN], key[pkcs11.Attribute.EXTRACTABLE]) == (True, False, False)
    plain.generate("log", "EC-P256")
    assert sorted(one.label for one in plain.keys()) == ["log", "wrap"]
    with pytest.raises(KeyMissingError):
        plain.sign_digest("wrap", parts.digest_of(b"m"), "sha512")
    left = plain._session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY})
    assert [*left] == [], "products of derivations do not stay"
    plain.close()
    plain.login(parts.PIN)
    assert plain.mac("wrap", wrapping.mac_input(salt)) == first
    plain.delete("wrap")
    assert [one.label for one in plain.keys()] == ["log"]
    with pytest.raises(KeyMissingError):
        plain.mac("wrap", b"")


def test_behind_p11_kit_the_key_works_or_is_not_left_behind(tmp_path: Path) -> None:
    """Its version 0.24 drops the parameters of the derivation, 0.25 passes them."""
    planned = parts.plan("softhsm", tmp_path / "token")
    with (tmp_path / "token" / "softhsm2.conf").open("a") as file:
        file.write(WITHOUT_HMAC)
    with parts.running(planned), parts.opened(planned, tmp_path / "keys") as token:
        assert isinstance(token, Pkcs11Token)
        token.login(parts.PIN)
        try:
            token.generate("wrap", HMAC_SHA256)
        except MechanismMissingError:
            assert [*token.keys()] == []
            assert pkcs11_secrets.found(token._session) == {}
        else:
            assert token.mac("wrap", DATA) == token.mac("wrap", DATA) != token.mac("wrap", b"")


@on_loop
async def test_a_signer_with_a_makers_module_in_it_enrols_and_wraps(tmp_path: Path) -> None:
    """As with a SmartCard-HSM: the module by its path, its own settings by `signer.module_configuration`, no HMAC, no p11-kit."""
    planned = parts.plan("softhsm", tmp_path / "token")
    configuration = tmp_path / "token" / "softhsm2.conf"
    with configuration.open("a") as file:
        file.write(WITHOUT_HMAC)
    named = {"token": "pkcs11", "module": str(tokens.SOFTHSM_MODULE), "token_label": "box"}
    own = tokens.TokenPlan([], {}, {**named, "module_configuration": f"SOFTHSM2_CONF={configuration}"}, pin=planned.pin)
    async with signer_box(tmp_path / "box", own) as box:
        await box.until_state("ready")
        code, _, err = await xacbe(box, "enrolment", "request", "--out", str(tmp_path / "request.json"))
        assert (code, "key ready in the token: wrap" in err) == (0, True), err
        blob = await box.client("recorder").call("wrap", WrapRequest(DATA, b"body"), bytes)
        box.kill()
        box.start()
        await box.until_state("ready")
        assert await box.client("recorder").call("unwrap", WrapRequest(blob, b"body"), bytes) == DATA


@pytest.mark.parametrize("wrong", ["LD_PRELOAD=/x.so", "PATH", "YUBIHSM_PKCS11_CONF=relative", "conf=/x"])
def test_a_modules_own_settings_are_named_by_what_is_a_configuration(wrong: str) -> None:
    with pytest.raises(SettingsError, match="module_configuration"):
        SignerSettings(module_configuration=wrong)
