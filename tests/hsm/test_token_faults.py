"""What a token does when it is pulled, swapped, emptied or given a wrong PIN (T57)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest

from appliance.hsm.pkcs11 import Pkcs11Token
from appliance.hsm.token import KeyMissingError, PinRejectedError, Token, TokenAbsentError, TokenLockedError
from tests.hsm import parts
from tests.hsm.parts import TokenProcess

pytestmark = pytest.mark.case("T57")

SEAL = "seal/MUN/BENITO-JUAREZ"
DIGEST = parts.digest_of(b"m")
SPY = Path("/usr/lib/x86_64-linux-gnu/pkcs11-spy.so")


@pytest.fixture(params=["softhsm", "swtpm"])
def hardware(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenProcess]:
    """The makers that can be pulled out."""
    with parts.running(parts.plan(request.param, tmp_path / "token")) as process:
        yield process


@pytest.fixture
def plugged(hardware: TokenProcess, tmp_path: Path) -> Iterator[Token]:
    with parts.opened(hardware.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate(SEAL, "EC-P256")
        yield token


@pytest.fixture
def spied(tmp_path: Path) -> Iterator[tuple[TokenProcess, Path]]:
    """SoftHSM2 whose calls are written down by OpenSC's spy: what really reached the token."""
    if not SPY.exists():
        pytest.skip("opensc-pkcs11 is not installed")
    planned, log = parts.plan("softhsm", tmp_path / "token"), tmp_path / "calls"
    argv = [str(SPY) if word.endswith("libsofthsm2.so") else word for word in planned.argv]
    environment = {**planned.environment, "PKCS11SPY": "/usr/lib/softhsm/libsofthsm2.so", "PKCS11SPY_OUTPUT": str(log)}
    with parts.running(replace(planned, argv=argv, environment=environment)) as process:
        yield process, log


def logins(log: Path) -> int:
    return log.read_text(errors="replace").count("C_Login\n") if log.exists() else 0


def test_a_pulled_token_is_named_within_a_second_and_comes_back_without_a_person(plugged: Token, hardware: TokenProcess) -> None:
    hardware.unplug()
    begun = time.monotonic()
    with pytest.raises(TokenAbsentError):
        plugged.sign_digest(SEAL, DIGEST, "sha512")
    assert plugged.check().state == "absent"
    with pytest.raises(TokenAbsentError):
        plugged.keys()
    assert time.monotonic() - begun < 1.0

    hardware.start()
    assert parts.until(lambda: plugged.check().state == "ready", "the token") < 5.0
    parts.verify(plugged.keys()[0].public_key, plugged.sign_digest(SEAL, DIGEST, "sha512"), DIGEST, "sha512")


def test_a_token_replugged_between_two_signatures_costs_no_request(plugged: Token, hardware: TokenProcess) -> None:
    plugged.sign_digest(SEAL, DIGEST, "sha512")
    hardware.unplug()
    hardware.start()

    parts.verify(plugged.keys()[0].public_key, plugged.sign_digest(SEAL, DIGEST, "sha512"), DIGEST, "sha512")


def test_a_check_notices_a_pulled_token_that_nobody_uses(plugged: Token, hardware: TokenProcess) -> None:
    assert plugged.check().state == "ready"
    hardware.unplug()

    assert plugged.check().state == "absent"


def test_a_box_that_starts_before_its_token_finds_it_later(hardware: TokenProcess, tmp_path: Path) -> None:
    hardware.unplug()
    with parts.opened(hardware.plan, tmp_path / "keys") as token:
        if hardware.plan.pin:
            with pytest.raises(TokenAbsentError):
                token.login(parts.PIN)
        assert token.check().state == "absent"

        hardware.start()
        assert token.check().state == "ready"
        token.generate(SEAL, "EC-P256")


def test_another_token_with_the_same_label_is_not_ours_and_sees_no_pin(spied: tuple[TokenProcess, Path], tmp_path: Path) -> None:
    process, log = spied
    with parts.opened(process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate(SEAL, "EC-P256")
        assert logins(log) == 1
        process.unplug()
        shutil.rmtree(tmp_path / "token")
        parts.plan("softhsm", tmp_path / "token")
        process.start()

        assert token.check().state == "absent"
        with pytest.raises(TokenAbsentError):
            token.sign_digest(SEAL, DIGEST, "sha512")
        assert logins(log) == 1


def test_a_tpm_that_lost_its_seed_has_no_keys(tmp_path: Path) -> None:
    with parts.running(parts.plan("swtpm", tmp_path / "token")) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        token.generate(SEAL, "EC-P256")
        before = token.check().serial
        process.unplug()
        shutil.rmtree(tmp_path / "token")
        (tmp_path / "token").mkdir()
        process.start()

        with pytest.raises(KeyMissingError):
            token.sign_digest(SEAL, DIGEST, "sha512")
        assert [*token.keys()] == []
        assert token.check().serial != before


def test_a_wrong_pin_is_never_tried_twice(spied: tuple[TokenProcess, Path], tmp_path: Path) -> None:
    process, log = spied
    with parts.opened(process.plan, tmp_path / "keys") as token:
        with pytest.raises(PinRejectedError) as refusal:
            token.login("99999999")
        assert refusal.value.tries_left is None  # SoftHSM2 does not count
        for _ in range(3):
            assert token.check().state == "pin_rejected"
            with pytest.raises(PinRejectedError):
                token.sign_digest(SEAL, DIGEST, "sha512")
        process.unplug()
        process.start()
        assert token.check().state == "pin_rejected"
        assert logins(log) == 1

        token.login(parts.PIN)
        assert token.check().state == "ready"
        assert logins(log) == 2


def test_without_a_pin_the_token_is_locked_and_nothing_is_offered(spied: tuple[TokenProcess, Path], tmp_path: Path) -> None:
    process, log = spied
    with parts.opened(process.plan, tmp_path / "keys") as token:
        assert token.check().state == "locked"
        with pytest.raises(TokenLockedError):
            token.sign_digest(SEAL, DIGEST, "sha512")
        assert logins(log) == 0


def test_the_pin_of_a_token_changes(tmp_path: Path) -> None:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        with pytest.raises(PinRejectedError):
            token.change_pin("00000000", "24681357")
        token.change_pin(parts.PIN, "24681357")
        process.unplug()
        process.start()

        assert token.check().state == "ready"  # logged in again with the new one


def test_private_keys_of_a_pkcs11_token_cannot_be_read(tmp_path: Path) -> None:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate(SEAL, "EC-P256")
        assert isinstance(token, Pkcs11Token)

        def tool(*words: str) -> str:
            command = ["pkcs11-tool", "--module", process.plan.settings["module"], "--login", "--pin", "env:PIN", *words]
            address = {"P11_KIT_SERVER_ADDRESS": process.plan.settings["module_address"], "PIN": parts.PIN, "PATH": os.defpath}
            done = subprocess.run(command, env=address, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        shown = tool("--list-objects", "--type", "privkey")
        assert "sign" in shown
        assert "decrypt" not in shown
        assert "sensitive, always sensitive, never extractable, local" in shown
        with pytest.raises(pkcs11.AttributeSensitive):
            token._private[SEAL][0][pkcs11.Attribute.VALUE]  # the test goes around the interface, as an attacker would
        with pytest.raises(pkcs11.PKCS11Error):
            token._private[SEAL][0][pkcs11.Attribute.EXTRACTABLE] = True


def test_private_keys_of_a_tpm_cannot_leave_it(tmp_path: Path) -> None:
    from tpm2_pytss import TPM2_ALG, TPMA_OBJECT, TPMT_SYM_DEF_OBJECT, TSS2_Exception

    from appliance.hsm.tpm2 import TpmToken

    with parts.running(parts.plan("swtpm", tmp_path / "token")) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        assert isinstance(token, TpmToken)
        token.generate(SEAL, "EC-P256")
        token.sign_digest(SEAL, DIGEST, "sha512")
        context, handle = token._context, token._handle(SEAL)  # the test goes around the interface, as an attacker would

        attributes = context.read_public(handle)[0].publicArea.objectAttributes
        for promised in (TPMA_OBJECT.FIXEDTPM, TPMA_OBJECT.FIXEDPARENT, TPMA_OBJECT.SENSITIVEDATAORIGIN, TPMA_OBJECT.NODA):
            assert attributes & promised
        assert not attributes & TPMA_OBJECT.RESTRICTED
        assert not attributes & TPMA_OBJECT.DECRYPT
        with pytest.raises(TSS2_Exception):
            context.duplicate(handle, token._primary, b"", TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL))
