"""Data keys under the token's wrapping key, and the log's checkpoints."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.clock import SystemClock
from appliance.errors import XacbeError
from appliance.hsm import wrapping
from appliance.hsm.token import MechanismMissingError
from appliance.hsm.wire import CheckpointReply, CheckpointRequest, HandshakeRequest, KeyRecord, KeyRequest, WrapRequest
from appliance.hsm.wrapping import WrappedKeyError
from appliance.messagelog import checkpoint
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import SignerBox, signer_box

KEY, SALT = bytes(range(32)), bytes(32)
ROOT = hashlib.sha256(b"root").digest()


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=64), st.integers(0, 200), st.integers(1, 255))
def test_a_wrapped_key_opens_whole_and_in_its_context_only(data: bytes, context: bytes, place: int, change: int) -> None:
    blob = wrapping.wrap(KEY, SALT, data, context)
    assert wrapping.unwrap(KEY, blob, context) == data
    assert data not in blob or len(data) < 4

    with pytest.raises(WrappedKeyError):
        wrapping.unwrap(KEY, blob, context + b"x")
    changed = bytearray(blob)
    changed[33 + place % (len(blob) - 33)] ^= change
    with pytest.raises(WrappedKeyError):
        wrapping.unwrap(KEY, bytes(changed), context)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_blob_or_one_named_error(data: bytes) -> None:
    try:
        assert len(wrapping.salt_of(data)) == wrapping.SALT_BYTES
    except WrappedKeyError:
        pass


def test_a_body_is_no_data_key() -> None:
    for data, context in ((b"", b""), (bytes(65), b""), (bytes(32), bytes(257))):
        with pytest.raises(MechanismMissingError):
            wrapping.check(data, context)


async def refusal(box: SignerBox, caller: str, operation: str, request: object) -> str:
    with pytest.raises(XacbeError) as refused:
        await box.client(caller).call(operation, request, bytes)
    return refused.value.kind


@on_loop
async def test_the_recorder_wraps_and_unwraps_with_a_key_that_stays_in_the_token(token_process: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", token_process.plan) as box:
        console, recorder = box.client("console"), box.client("recorder")
        made = await console.call("generate_key", KeyRequest("wrap"), KeyRecord)
        assert (made.use, made.algorithm, made.public_key, made.certificates) == ("wrap", "HMAC-SHA256", b"", [])
        data, context = os.urandom(32), b"body 17"

        blob = await recorder.call("wrap", WrapRequest(data, context), bytes)

        assert blob != await recorder.call("wrap", WrapRequest(data, context), bytes)
        assert await recorder.call("unwrap", WrapRequest(blob, context), bytes) == data
        assert await refusal(box, "recorder", "unwrap", WrapRequest(blob, b"body 18")) == "key.wrapped_malformed"
        assert await refusal(box, "relay", "unwrap", WrapRequest(blob, context)) == "caller.not_granted"
        assert await refusal(box, "relay", "sign_handshake", HandshakeRequest("wrap", bytes(32))) == "key.not_granted"
        assert await refusal(box, "console", "renew_key", KeyRequest("wrap")) == "key.label_unknown"
        assert await refusal(box, "console", "generate_key", KeyRequest("log", "HMAC-SHA256")) == "token.mechanism_missing"
        box.kill()
        box.start()
        await box.until_state("ready")
        assert await recorder.call("unwrap", WrapRequest(blob, context), bytes) == data


@on_loop
async def test_a_checkpoint_is_written_by_the_signer_and_signed_with_the_log_key(token_process: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", token_process.plan) as box:
        key = await box.with_key("log")
        now_us = SystemClock().now_us()

        reply = await box.client("recorder").call("sign_checkpoint", CheckpointRequest(17, ROOT, now_us, 3), CheckpointReply)

        origin = "xacbe.log/QROO-TEST/MUN/BENITO-JUAREZ/SS1"
        assert reply.note.decode().splitlines()[:6] == [origin, "17", base64.b64encode(ROOT).decode(), f"at {now_us}", "counter 3", ""]
        assert checkpoint.check(reply.note, [key.public_key]) == checkpoint.Checkpoint(origin, 17, ROOT, now_us, 3)
        assert reply.certificate == key.certificates[0]
        for request, kind in (
            (CheckpointRequest(-1, ROOT, now_us), "log.checkpoint_malformed"),
            (CheckpointRequest(1, b"x", now_us), "log.checkpoint_malformed"),
            (CheckpointRequest(1, ROOT, now_us - 301_000_000), "seal.signing_time"),
        ):
            assert await refusal(box, "recorder", "sign_checkpoint", request) == kind
        assert await refusal(box, "relay", "sign_checkpoint", CheckpointRequest(1, ROOT, now_us)) == "caller.not_granted"
