"""A running signer over a token with the faults of real parts: named at once, harmless, gone with their cause, no PIN try burnt (T57)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.clock import SystemClock
from appliance.errors import XacbeError
from appliance.hsm.wire import MESSAGE, PinRequest, SealReply, SealRequest
from provisioning.lab import tokens
from provisioning.lab.tokens import SOFTHSM_MODULE
from tests.depth import DEEP
from tests.hsm import parts
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import MEMBER, SignerBox, signer_box

pytestmark = pytest.mark.case("T57")

SLOW_S = 10 if DEEP else 2
DIGEST = hashlib.sha512(b"message").digest()


@dataclass(frozen=True)
class FaultyToken:
    """A token's process, the file that says what is the matter, and the count of PIN tries that reached it."""

    process: TokenProcess
    fault: Path
    logins: Path

    def has(self, fault: str) -> None:
        self.fault.write_text(fault)

    def tries(self) -> int:
        return self.logins.stat().st_size if self.logins.exists() else 0


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once; fault and log-ins lie beside it."""
    for reason in (tokens.missing("softhsm"), None if shutil.which("gcc") else "gcc not installed"):
        if reason is not None:
            pytest.skip(reason)
    place = tmp_path_factory.mktemp("faulty")
    defines = [
        f'-D{name}="{value}"' for name, value in (("MODULE", SOFTHSM_MODULE), ("FAULT", place / "fault"), ("LOGINS", place / "logins"))
    ]
    source = str(Path(__file__).with_name("faulty_module.c"))
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", *defines, "-o", str(place / "faulty.so"), source, "-ldl"], check=True
    )
    return place


@pytest.fixture
def faulty(module: Path, tmp_path: Path) -> Iterator[FaultyToken]:
    for name in ("fault", "logins"):
        (module / name).write_text("")
    planned = tokens.prepare_softhsm(tmp_path / "token", "box", parts.PIN, parts.SO_PIN, module / "faulty.so")
    with parts.running(planned) as process:
        yield FaultyToken(process, module / "fault", module / "logins")


async def refused(box: SignerBox, within_s: float = 1.0) -> str:
    """The kind that a relay hears when it asks for a seal now, and that it hears it in time."""
    begun = time.monotonic()
    with pytest.raises(XacbeError) as error:
        await seal(box)
    assert time.monotonic() - begun < within_s
    return error.value.kind


async def seal(box: SignerBox) -> None:
    await box.client("relay").call("sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, SystemClock().now_us()), SealReply)


async def until_sealed(box: SignerBox, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await seal(box)
            except XacbeError:
                await asyncio.sleep(0.05)


@on_loop
async def test_a_wrong_signature_never_leaves_the_signer(faulty: FaultyToken, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", faulty.process.plan) as box:
        await box.with_key()
        faulty.has("flip")
        assert [await refused(box) for _ in range(3)] == ["token.wrong_signature"] * 3
        assert (await box.status()).signatures == 0
        faulty.has("")
        await seal(box)
        assert faulty.tries() == 1


@pytest.mark.parametrize("fault", ["session", "removed"])
@on_loop
async def test_a_session_that_a_suspend_took_is_opened_again(fault: str, faulty: FaultyToken, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", faulty.process.plan) as box:
        await box.with_key()
        faulty.has(fault)
        assert await refused(box) == "token.absent"
        faulty.has("")
        await until_sealed(box)


@on_loop
async def test_a_signature_that_takes_seconds_too_long_is_refused_by_deadline(faulty: FaultyToken, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", faulty.process.plan, sign_s_max=0.8) as box:
        await box.with_key()
        faulty.has(f"slow {SLOW_S}")
        first = asyncio.ensure_future(refused(box, 1.2))
        await asyncio.sleep(0.1)
        assert await refused(box, 1.2) == await first == "token.busy"
        assert (await box.status()).state == "absent", "what does not answer within its time is not there"
        faulty.has("")
        await until_sealed(box, SLOW_S + 5.0)  # the call that hangs ends by itself
        assert faulty.tries() == 1


@pytest.mark.parametrize(("fault", "state"), [("locked", "pin_locked"), ("wrong", "pin_rejected")])
@on_loop
async def test_a_pin_that_is_refused_costs_one_try_whatever_happens_then(
    fault: str, state: str, faulty: FaultyToken, tmp_path: Path
) -> None:
    async with signer_box(tmp_path / "box", faulty.process.plan) as box:
        await box.with_key()
        faulty.has(fault)
        faulty.process.unplug()
        faulty.process.start()
        await box.until_state(state)
        tries = faulty.tries()
        assert await refused(box) == f"token.{state}"
        faulty.process.unplug()
        faulty.process.start()
        box.kill()
        box.start()
        await box.until_state(state)
        await asyncio.sleep(1.2)  # two looks
        assert faulty.tries() - tries <= 1, "a new process has never seen the refusal but its note has"
        faulty.has("")
        await box.client("console").call("unlock", PinRequest(parts.PIN))
        await seal(box)


@on_loop
async def test_the_last_try_is_a_persons(faulty: FaultyToken, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", faulty.process.plan) as box:
        await box.with_key()
        tries = faulty.tries()
        faulty.has("final")
        faulty.process.unplug()
        faulty.process.start()
        await box.until_state("pin_rejected")
        assert ((await box.status()).tries_left, faulty.tries()) == (1, tries)


@on_loop
async def test_a_tpm_in_dictionary_attack_lock_out_signs_all_the_same(tmp_path: Path) -> None:
    """Our keys are noDA: somebody else's wrong guesses do not stop the box."""
    if shutil.which("tpm2_dictionarylockout") is None:
        pytest.skip("tpm2-tools not installed")
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned) as process:
        async with signer_box(tmp_path / "box", planned) as box:
            await box.with_key()
            box.kill()  # a bare TPM serves one connection

            def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
                command = [f"tpm2_{name}", "-T", f"swtpm:path={planned.sockets[0]}", *words]
                return subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=20, cwd=tmp_path, env={"PATH": os.defpath}
                )

            assert tool("dictionarylockout", "-s", "-n", "1", "-t", "3600", "-l", "3600").returncode == 0
            assert tool("createprimary", "-C", "o", "-c", "primary").returncode == 0
            tool("flushcontext", "-t")
            assert tool("create", "-C", "primary", "-p", "right", "-u", "key.pub", "-r", "key.priv").returncode == 0
            tool("flushcontext", "-t")
            assert tool("load", "-C", "primary", "-u", "key.pub", "-r", "key.priv", "-c", "key").returncode == 0
            (tmp_path / "digest").write_bytes(bytes(32))
            sign = "sign", "-c", "key", "-g", "sha256", "-d", "-o", "signature", "digest"
            assert tool(*sign, "-p", "wrong").returncode != 0
            tool("flushcontext", "-t")
            assert "lockout" in tool(*sign, "-p", "right").stderr.lower()
            tool("flushcontext", "-t")

            box.start()
            await box.until_state("ready")
            await seal(box)
            process.unplug()
            process.start()
            await until_sealed(box)
