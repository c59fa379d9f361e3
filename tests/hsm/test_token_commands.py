"""`xacbe token list|init` and the PIN's life, as a technician sees them, with the audit records that they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.hsm.wire import KeyRecord, KeyRequest
from provisioning.lab import tokens
from tests.hsm import parts
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import SEAL, signer_box
from tests.hsm.test_commands import xacbe


@pytest.fixture
def softhsm(tmp_path: Path) -> Iterator[TokenProcess]:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process:
        yield process


@on_loop
async def test_a_new_token_is_initialised_with_piped_pins_and_serves(tmp_path: Path) -> None:
    if tokens.missing("softhsm"):
        pytest.skip(str(tokens.missing("softhsm")))
    planned = tokens.prepare_empty_softhsm(tmp_path / "token", "box")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned, pin_mode="attended") as box:
            await box.until_state("absent")
            (empty,) = json.loads((await xacbe(box, "token", "list", "--json"))[1])
            assert (empty["state"], empty["chosen"]) == ("uninitialised", False)

            code, out, err = await xacbe(box, "token", "init", given=f"{parts.SO_PIN}\n{parts.PIN}\n")
            assert (code, out, err) == (0, "The token is initialised.\n", "")
            assert (await box.status()).state == "ready"
            listed = json.loads((await xacbe(box, "token", "list", "--json"))[1])
            assert [(one["label"], one["state"]) for one in listed if one["chosen"]] == [("box", "ready")]
            await box.with_key()

            code, _, err = await xacbe(box, "token", "init", given=f"{parts.SO_PIN}\n{parts.PIN}\n")
            assert (code, err.partition(":")[0]) == (1, "token.holds_keys")
            assert (await box.status()).state == "ready"
            code, _, err = await xacbe(box, "token", "init", "--yes", given=f"99999999\n{parts.PIN}\n")
            assert (code, err.partition(":")[0]) == (1, "token.pin_rejected")
            code, _, err = await xacbe(box, "token", "init", "--yes", given=f"{parts.SO_PIN}\n24681357\n")
            assert (code, err) == (0, "")
            assert (await xacbe(box, "token", "show"))[1].startswith("Token: ready")
            made = await box.client("console").call("generate_key", KeyRequest(SEAL), KeyRecord)
            assert made.certificates == []
            await box.until_audited("token.initialisation_asked", "token.initialised")
            assert parts.SO_PIN not in (box.state / "signer.log").read_text() + str(box.recorder.records)


@pytest.mark.parametrize("kind", ["software", "swtpm"])
@on_loop
async def test_where_there_is_nothing_to_initialise_the_token_is_looked_at(kind: str, tmp_path: Path) -> None:
    planned = parts.plan(kind, tmp_path / "token")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            await box.with_key()
            assert (await xacbe(box, "token", "init"))[0] == 0
            assert (await box.status()).state == "ready"
            code, out, _ = await xacbe(box, "token", "list")
            assert (code, "the box's" in out) == (0, True)
            assert [key["label"] for key in json.loads((await xacbe(box, "key", "list", "--json"))[1])] == [SEAL]


@on_loop
async def test_an_unattended_token_gets_the_pin_of_the_credential_and_no_other(tmp_path: Path) -> None:
    if tokens.missing("softhsm"):
        pytest.skip(str(tokens.missing("softhsm")))
    planned = tokens.prepare_empty_softhsm(tmp_path / "token", "box")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            code, _, err = await xacbe(box, "token", "init", given=f"{parts.SO_PIN}\n")
            assert (code, err.partition(":")[0]) == (1, "token.pin_unattended")
            tokens.write_pin(box.state, parts.PIN)
            assert (await xacbe(box, "token", "init", given=f"{parts.SO_PIN}\n"))[0] == 0
            await box.with_key()
            box.kill()
            box.start()
            await box.until_state("ready")


@on_loop
async def test_every_act_on_token_and_keys_is_in_the_audit_log(tmp_path: Path) -> None:
    planned = parts.plan("softhsm", tmp_path / "token")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned, pin_mode="attended") as box:
            await xacbe(box, "token", "login", given="99999999\n")
            await xacbe(box, "token", "login", given=f"{parts.PIN}\n")
            await xacbe(box, "token", "change-pin", given=f"{parts.PIN}\n24681357\n")
            await box.with_key()
            await xacbe(box, "key", "delete", SEAL, "--yes")
            await box.until_audited("key.deleted")
            found = [event for event in box.recorder.events() if event not in ("token.state_changed", "key.used", "key.use_refused")]
            assert found == [
                "token.login_asked",
                "token.pin_refused",
                "token.login_asked",
                "token.login",
                "token.pin_change_asked",
                "token.pin_changed",
                "key.generation_asked",
                "key.generated",
                "key.certificate_import_asked",
                "key.certificate_imported",
                "key.deletion_asked",
                "key.deleted",
            ]
            written = str([record.facts for record in box.recorder.records]) + (box.state / "signer.log").read_text()
            assert not any(pin in written for pin in (parts.PIN, "24681357", "99999999"))


@on_loop
async def test_a_pin_is_not_changed_without_its_audit_record(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan, pin_mode="attended") as box:
        await xacbe(box, "token", "login", given=f"{parts.PIN}\n")
        box.recorder.away = True
        code, _, err = await xacbe(box, "token", "change-pin", given=f"{parts.PIN}\n24681357\n")
        assert (code, err.partition(":")[0]) == (3, "audit.unavailable")
        box.recorder.away = False
        assert (await xacbe(box, "token", "change-pin", given=f"{parts.PIN}\n24681357\n"))[0] == 0
