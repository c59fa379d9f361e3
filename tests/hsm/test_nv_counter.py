"""The TPM's count: only up, over restarts of the TPM and of everything else, and never often enough to wear the chip out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import UnavailableError, XacbeError
from appliance.hsm import nv_counter
from appliance.hsm.nv_counter import AT_ONCE_MAX, REFILL_S, Allowance
from appliance.hsm.tpm2 import TpmToken
from tests.hsm import parts
from tests.hsm.parts import on_loop
from tests.hsm.signer_box import signer_box


@given(st.lists(st.floats(0, 1000), max_size=400))
def test_over_any_time_the_counter_goes_up_as_often_as_was_allowed_and_no_more(pauses: list[float]) -> None:
    allowance, now_s, taken = Allowance(0.0), 0.0, 0
    for pause in pauses:
        now_s += pause
        wait_s = allowance.take(now_s)
        taken += wait_s is None
        if wait_s is not None:
            assert 0 < wait_s <= REFILL_S
        assert taken <= AT_ONCE_MAX + now_s / REFILL_S + 1e-6


@on_loop
async def test_the_recorder_counts_and_no_restart_takes_a_count_back(tmp_path: Path) -> None:
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned) as process:
        async with signer_box(tmp_path / "box", planned) as box:
            recorder = box.client("recorder")
            assert await recorder.call("read_counter", None, int) == 0
            first = await recorder.call("advance_counter", None, int)
            assert await recorder.call("advance_counter", None, int) == first + 1
            process.unplug()
            await box.until_state("absent")
            process.start()
            await box.until_state("ready")
            assert await recorder.call("read_counter", None, int) == first + 1
            box.kill()
            box.start()
            await box.until_state("ready")
            assert await box.client("recorder").call("advance_counter", None, int) == first + 2
            for _ in range(AT_ONCE_MAX - 1):
                await box.client("recorder").call("advance_counter", None, int)
            with pytest.raises(UnavailableError) as busy:
                await box.client("recorder").call("advance_counter", None, int)
            assert (busy.value.kind, "again in" in str(busy.value)) == ("token.busy", True)
            with pytest.raises(XacbeError) as refused:
                await box.client("relay").call("advance_counter", None, int)
            assert refused.value.kind == "caller.not_granted"


@pytest.mark.parametrize("kind", ["software", "softhsm"])
@on_loop
async def test_other_tokens_do_not_count(kind: str, tmp_path: Path) -> None:
    planned = parts.plan(kind, tmp_path / "token")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            for operation in ("advance_counter", "read_counter"):
                with pytest.raises(XacbeError) as refused:
                    await box.client("recorder").call(operation, None, int)
                assert refused.value.kind == "token.mechanism_missing"


def test_a_counter_that_was_deleted_goes_on_above_what_it_had_and_the_tools_see_it(tmp_path: Path) -> None:
    if shutil.which("tpm2_nvundefine") is None:
        pytest.skip("tpm2-tools not installed")
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned), parts.opened(planned, tmp_path / "keys") as token:
        assert isinstance(token, TpmToken)
        for _ in range(3):
            last = token.lend(nv_counter.advance)
        token.close()
        assert "nt=0x1" in _tool(planned.sockets[0], "tpm2_nvreadpublic", hex(nv_counter.INDEX))
        _tool(planned.sockets[0], "tpm2_nvundefine", hex(nv_counter.INDEX))
        assert token.lend(nv_counter.read) == 0
        assert token.lend(nv_counter.advance) > last


def _tool(sock: Path, *words: str) -> str:
    done = subprocess.run([words[0], "-T", f"swtpm:path={sock}", *words[1:]], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout
