"""Seals through a signer: what waits shares one signature, its failure is everybody's answer, and old evidence makes no seal."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.clock import Clock, SystemClock
from appliance.errors import UnavailableError, XacbeError
from appliance.hsm.client import SignerClient
from appliance.hsm.wire import SealReply
from appliance.messagelog.wire import Seal
from appliance.net.local_client import LocalClient
from appliance.relay import sealing as module
from appliance.relay.sealing import Sealing
from appliance.relay.trust_view import TrustView
from appliance.seal import xades
from appliance.seal.hash_chain import Part, sha512
from appliance.seal.verify import MessageParts, verify_message
from appliance.trust import ocsp
from appliance.trust.autonomy import CREATION_MARGIN_US
from appliance.trust.global_configuration import SharedParameters
from appliance.trust.wire import Evidence
from tests.exchange.institutions import Institution, Network, der
from tests.fakes.exchange import SetClock
from tests.seal.workshop import HOUR_US, NOON_US

LOG = logging.getLogger("tests.relay.sealing")


class SlowSigner(SignerClient):
    """Signs with a key in memory whenever it is let; `fails` is the token's answer."""

    def __init__(self, institution: Institution) -> None:
        super().__init__(Path("/nowhere"), "relay")
        self._institution, self.let, self.fails = institution, asyncio.Event(), ""
        self.asked: list[str] = []
        self.let.set()

    async def seal(self, member: str, signed: str, content: bytes, signing_time_us: int) -> SealReply:
        self.asked.append(member)
        await self.let.wait()
        if self.fails:
            raise UnavailableError("the token says no", kind=self.fails)
        certificate = der(self._institution.seal)
        digest = content if signed == xades.SIGNED_MESSAGE else sha512(content)
        prepared = xades.prepare(certificate, signed, digest, signing_time_us, "ecdsa-sha512")
        value = self._institution.seal_key.sign(prepared.to_sign, ec.ECDSA(hashes.SHA512()))
        return SealReply(prepared.finish(value), certificate)


class OneByOne(SlowSigner):
    """Makes one signature for each `may.release()`."""

    def __init__(self, institution: Institution) -> None:
        super().__init__(institution)
        self.begun, self.may = 0, asyncio.Semaphore(0)

    async def seal(self, member: str, signed: str, content: bytes, signing_time_us: int) -> SealReply:
        self.begun += 1
        await self.may.acquire()
        return await super().seal(member, signed, content, signing_time_us)


class OneResponse(TrustView):
    """The trust agent's last word: one OCSP response for the seal certificate, or none."""

    def __init__(self, clock: Clock, shared: SharedParameters) -> None:
        super().__init__(Path("/nowhere"), clock, LOG, LocalClient(Path("/nowhere")), lambda: None)
        self.parameters = shared
        self.known: dict[bytes, Evidence] = {}

    def shared(self) -> SharedParameters:
        return self.parameters

    def evidence(self, certificate_sha256: bytes) -> Evidence | None:
        return self.known.get(certificate_sha256)


class Bench:
    """Everything that sealing needs, at noon."""

    def __init__(
        self, network: Network, group: asyncio.TaskGroup, clock: Clock | None = None, signer: type[SlowSigner] = SlowSigner
    ) -> None:
        self.network, self.clock = network, SetClock(NOON_US)
        self.shared = network.shared()
        self.signer = signer(network.asker)
        self.trust = OneResponse(self.clock, self.shared)
        self.confirm()
        self.sealing = Sealing(clock or self.clock, LOG, self.signer, self.trust, group)

    def confirm(self, ago_us: int = 0) -> Evidence:
        certificate = self.network.asker.seal
        response = self.network.authority.confirmation(certificate, self.clock.us - ago_us)
        facts = ocsp.facts(response)
        digest = hashlib.sha256(der(certificate)).digest()
        evidence = Evidence(digest, b"", response, facts.produced_at_us, facts.this_update_us, facts.next_update_us)
        self.trust.known = {digest: evidence}
        return evidence

    async def seal(self, *contents: bytes) -> Seal:
        return await self.sealing.seal(self.network.asker.member, parts(*contents))

    def verify(self, seal: Seal, *contents: bytes) -> None:
        digests = [sha512(content) for content in contents]
        message = MessageParts(digests[0], digests[1:])
        asker = self.network.asker.client
        facts = verify_message(message, seal.signature, seal.chain_result, seal.chain, asker, self.shared, self.clock.us)
        assert (facts.ocsp.produced_at_us, facts.ocsp.this_update_us) == (seal.ocsp_produced_at_us, seal.ocsp_this_update_us)


def parts(*contents: bytes) -> list[Part]:
    names = ("/message.xml", "/attachment1")
    return [(name, sha512(content)) for name, content in zip(names, contents, strict=False)]


def run(
    network: Network, main: Callable[[Bench], Awaitable[None]], clock: Clock | None = None, signer: type[SlowSigner] = SlowSigner
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            await main(Bench(network, group, clock, signer))

    asyncio.run(whole())


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


def test_a_message_alone_is_signed_directly_and_one_with_a_body_through_its_chain(network: Network) -> None:
    async def main(bench: Bench) -> None:
        alone, with_body = await bench.seal(b"head"), await bench.seal(b"head", b"body")

        assert (alone.chain_result, alone.chain) == (None, None)
        bench.verify(alone, b"head")
        bench.verify(with_body, b"head", b"body")

    run(network, main)


def test_what_waits_while_the_token_is_busy_shares_one_signature(network: Network) -> None:
    async def main(bench: Bench) -> None:
        bench.signer.let.clear()
        contents = [(b"head %d" % at, b"body") if at % 2 else (b"head %d" % at,) for at in range(20)]
        waiting = [asyncio.ensure_future(bench.seal(*content)) for content in contents]
        await asyncio.sleep(0.01)
        assert bench.signer.asked == ["GOV/1001"]

        bench.signer.let.set()
        seals = await asyncio.gather(*waiting)

        assert len(bench.signer.asked) == 2
        assert (bench.sealing.signatures, bench.sealing.messages) == (2, 20)
        assert len({seal.signature for seal in seals}) == 2
        for seal, content in zip(seals, contents, strict=True):
            bench.verify(seal, *content)

    run(network, main)


def test_the_token_goes_on_before_a_batch_does_and_a_batch_goes_on_in_pieces(network: Network) -> None:
    """What a batch sets going, in the recorder and the other box, begins with its first messages; the token waits for none of them."""

    async def main(bench: Bench) -> None:
        signer = bench.signer
        assert isinstance(signer, OneByOne)
        begun_when_sealed: list[int] = []

        async def one(at: int) -> None:
            await bench.seal(b"head %d" % at)
            begun_when_sealed.append(signer.begun)

        waiting = [asyncio.ensure_future(one(at)) for at in range(51)]
        await asyncio.sleep(0.01)
        signer.may.release()  # the first one, alone
        while signer.begun < 2:
            await asyncio.sleep(0)
        waiting += [asyncio.ensure_future(one(at)) for at in range(51, 60)]
        await asyncio.sleep(0.01)
        assert begun_when_sealed == [2]

        signer.may.release()  # the fifty
        pieces, seen = list[int](), 1
        while seen < 51:
            await asyncio.sleep(0)
            pieces.append(len(begun_when_sealed) - seen)
            seen = len(begun_when_sealed)
        assert [piece for piece in pieces if piece] == [16, 16, 16, 2]
        assert begun_when_sealed[1:] == [3] * 50
        signer.may.release()
        await asyncio.gather(*waiting)

    run(network, main, signer=OneByOne)


@pytest.mark.parametrize("kind", ["token.absent", "token.locked", "process.away"])
def test_a_token_that_fails_refuses_everybody_in_the_batch_and_nobody_after_it(network: Network, kind: str) -> None:
    async def main(bench: Bench) -> None:
        bench.signer.let.clear()
        bench.signer.fails = kind
        waiting = [asyncio.ensure_future(bench.seal(b"head %d" % at)) for at in range(5)]
        await asyncio.sleep(0.01)
        bench.signer.let.set()

        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert [error.kind if isinstance(error, XacbeError) else error for error in refused] == [kind] * 5

        bench.signer.fails = ""
        bench.verify(await bench.seal(b"head"), b"head")

    run(network, main)


def test_who_gave_up_waiting_disturbs_nobody(network: Network) -> None:
    async def main(bench: Bench) -> None:
        bench.signer.let.clear()
        first, second, third = (asyncio.ensure_future(bench.seal(b"head %d" % at)) for at in range(3))
        await asyncio.sleep(0.01)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        bench.signer.let.set()

        bench.verify(await third, b"head 2")
        bench.verify(await bench.seal(b"later"), b"later")

    run(network, main)


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T38")
def test_evidence_that_ends_before_the_stamp_could_come_makes_no_seal(network: Network) -> None:
    async def main(bench: Bench) -> None:
        evidence = bench.confirm()
        ends_us = evidence.this_update_us + 8 * HOUR_US - CREATION_MARGIN_US

        bench.clock.us = ends_us - 1
        bench.verify(await bench.seal(b"head"), b"head")

        bench.clock.us = ends_us
        with pytest.raises(UnavailableError) as refused:
            await bench.seal(b"head")
        assert refused.value.kind == "seal.evidence_away"

        bench.confirm()
        bench.verify(await bench.seal(b"head"), b"head")

    run(network, main)


def test_without_any_evidence_nothing_is_sealed(network: Network) -> None:
    async def main(bench: Bench) -> None:
        bench.trust.known = {}
        with pytest.raises(UnavailableError) as refused:
            await bench.seal(b"head")
        assert refused.value.kind == "seal.evidence_away"

    run(network, main)


def test_a_message_that_waits_too_long_behind_a_token_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEAL_S_MAX", 0.05)

    async def main(bench: Bench) -> None:
        bench.signer.let.clear()
        first, second = asyncio.ensure_future(bench.seal(b"head 1")), asyncio.ensure_future(bench.seal(b"head 2"))

        with pytest.raises(UnavailableError) as refused:
            await second
        assert refused.value.kind == "seal.deadline_passed"
        bench.signer.let.set()
        assert (await first).signature

    class NowAtNoon(SystemClock):
        """Seals are dated at noon; waits are real."""

        def now_us(self) -> int:
            return NOON_US

    run(network, main, NowAtNoon())
