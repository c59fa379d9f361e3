"""Tokens as slow as real ones: the module that plays them, and the signer's order in front of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.clock import SystemClock
from appliance.errors import UnavailableError
from appliance.hsm.wire import MESSAGE, HandshakeRequest, SealReply, SealRequest
from provisioning.lab import tokens
from provisioning.lab.tokens import TokenPlan
from tests.hsm import parts, speed_profiles
from tests.hsm.parts import on_loop
from tests.hsm.signer_box import MEMBER, signer_box
from tests.hsm.speed_profiles import PROFILES, SlowModule

DIGEST = hashlib.sha512(b"message").digest()


@pytest.fixture
def slow(tmp_path: Path) -> SlowModule:
    reason = tokens.missing("softhsm")
    if reason is not None:
        pytest.skip(reason)
    return speed_profiles.build(tmp_path / "module")


@pytest.fixture
def planned(slow: SlowModule, tmp_path: Path) -> Iterator[TokenPlan]:
    made = tokens.prepare_softhsm(tmp_path / "token", "box", parts.PIN, parts.SO_PIN, slow.file)
    with parts.running(made):
        yield made


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_is_as_slow_as_its_part(profile: speed_profiles.Profile, slow: SlowModule, planned: TokenPlan, tmp_path: Path) -> None:
    with parts.opened(planned, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate("log", "EC-P256")
        slow.set(profile.line())
        begun = time.monotonic()
        token.sign_digest("log", parts.digest_of(b"m"), "sha512")
        assert profile.sign_ms <= (time.monotonic() - begun) * 1000 <= profile.sign_ms + 60


def test_a_part_that_throttles_itself_is_slower_later(slow: SlowModule, planned: TokenPlan, tmp_path: Path) -> None:
    with parts.opened(planned, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate("log", "EC-P256")
        slow.set("1 200 30")
        begun = time.monotonic()
        token.sign_digest("log", parts.digest_of(b"m"), "sha512")
        assert time.monotonic() - begun < 0.2
        earlier = time.time() - 31  # noqa: TID251  the age of a file
        os.utime(slow.speed, (earlier, earlier))
        begun = time.monotonic()
        token.sign_digest("log", parts.digest_of(b"m"), "sha512")
        assert time.monotonic() - begun >= 0.2


@on_loop
async def test_handshakes_go_before_seals_that_wait_for_a_slow_token(slow: SlowModule, planned: TokenPlan, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", planned) as box:
        await box.with_key()
        await box.with_key("tls-peer")
        slow.set("100")
        ended: list[str] = []

        async def seal(name: str) -> None:
            request = SealRequest(MEMBER, MESSAGE, DIGEST, SystemClock().now_us())
            await box.client("relay").call("sign_seal", request, SealReply)
            ended.append(name)

        async def handshake(name: str) -> None:
            await box.client("relay").call("sign_handshake", HandshakeRequest("tls-peer", bytes(32)), bytes)
            ended.append(name)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(seal(f"seal {number}"))
            await asyncio.sleep(0.03)
            for number in range(3):
                group.create_task(handshake(f"handshake {number}"))

        assert ended[0] == "seal 0", "what is at the token is not interrupted"
        assert ended[1:4] == ["handshake 0", "handshake 1", "handshake 2"]


@pytest.mark.case("T57")
@on_loop
async def test_a_part_that_throttled_itself_signs_what_it_can_and_the_rest_is_refused_by_deadline(
    slow: SlowModule, planned: TokenPlan, tmp_path: Path
) -> None:
    """OPTIGA Trust M after 30 s of use, with every time divided by ten: one signature in half a second, a deadline of one and a bit."""
    async with signer_box(tmp_path / "box", planned, sign_s_max=1.2, queue_max=8) as box:
        await box.with_key()
        await box.with_key("tls-peer")
        slow.set("500")
        begun = time.monotonic()

        async def ended(operation: str, request: object) -> tuple[str, float]:
            try:
                await box.client("relay").call(operation, request)
            except UnavailableError as error:
                return error.kind, time.monotonic() - begun
            return "signed", time.monotonic() - begun

        now_us = SystemClock().now_us()
        seals = [asyncio.ensure_future(ended("sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, now_us))) for _ in range(12)]
        await asyncio.sleep(0.05)
        handshake = asyncio.ensure_future(ended("sign_handshake", HandshakeRequest("tls-peer", bytes(32))))
        answers = await asyncio.gather(*seals)

        assert [kind for kind, _ in answers].count("signed") == 1, "the handshake took the second turn"
        assert {kind for kind, _ in answers} == {"signed", "token.busy"}
        assert max(seconds for _, seconds in answers) < 1.2 + 0.5, "nobody waits beyond the deadline"
        assert sum(seconds < 0.3 for kind, seconds in answers if kind == "token.busy") >= 12 - 1 - 8, "beyond the bound: at once"
        slow.set("1")
        assert (await ended("sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, SystemClock().now_us())))[0] == "signed"
        await handshake
