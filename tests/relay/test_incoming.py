"""A peer's message while it arrives: however it is cut the same parts come out, and whatever is missing is never taken for a whole."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from appliance.errors import PeerProtocolError
from appliance.exchange.ports import Sealed
from appliance.net import faults, transport_protocol
from appliance.net.transport_parts import REST_REQUEST, REST_RESPONSE, HeadPart, TransportLimits
from appliance.net.transport_protocol import TransportReader
from appliance.relay.bodies import BodyStore, NextChunk
from appliance.relay.incoming import IncomingMessage, PeerFaultError
from tests.relay.test_bodies import INLINE, OpenBodies, chunks
from tests.seal.workshop import HEAD

BOUNDARY = b"xtop-of-a-peer"
BODY = b"a body\r\n--with what looks like\r\n--xtop-of"
OCSP = b"0\x03\x02\x01\x00"
FAULT = faults.soap_fault(faults.Fault("server.serverproxy.access_denied", 500, "no", "", "access.no_right"))


def message(body: bytes | None = BODY) -> bytes:
    return transport_protocol.whole_message(BOUNDARY, REST_REQUEST, HEAD, body, b"<signature/>", b"<result/>", b"<chain/>", ocsp=(OCSP,))


def incoming(next_chunk: NextChunk, head: str = REST_REQUEST) -> IncomingMessage:
    limits = TransportLimits(body_bytes_max=100_000)
    return IncomingMessage(next_chunk, TransportReader(BOUNDARY, frozenset({head}), limits), BodyStore(OpenBodies(), INLINE, 100_000))


async def whole(*pieces: bytes) -> tuple[HeadPart, Sealed]:
    came = incoming(chunks(*pieces))
    return await came.head(), await came.rest()


def check(head: HeadPart, sealed: Sealed, body: bytes | None = BODY) -> None:
    assert (head.data, head.digest, head.ocsp) == (HEAD, hashlib.sha512(HEAD).digest(), (OCSP,))
    assert (sealed.head, sealed.seal.signature, sealed.seal.chain_result, sealed.seal.chain) == (
        HEAD,
        b"<signature/>",
        b"<result/>",
        b"<chain/>",
    )
    if body is None:
        assert sealed.body is None
    else:
        assert sealed.body is not None
        assert (sealed.body.inline, sealed.body.digest) == (body, hashlib.sha512(body).digest())


@pytest.mark.parametrize("body", [BODY, b"", None], ids=["body", "empty body", "no body"])
def test_every_cut_of_a_message_gives_the_same_message(body: bytes | None) -> None:
    data = message(body)

    async def main() -> None:
        for cut in range(len(data) + 1):
            check(*await whole(data[:cut], data[cut:]), body=body)
        check(*await whole(*(data[at : at + 1] for at in range(len(data)))), body=body)

    asyncio.run(main())


@pytest.mark.case("T37")
def test_no_beginning_of_a_message_is_taken_for_the_whole() -> None:
    data = message()
    ends = {len(data) - 1, len(data) - 2}  # the closing boundary is whole; the line end behind it says nothing

    async def main() -> None:
        for cut in range(len(data)):
            if cut not in ends:
                with pytest.raises(PeerProtocolError):
                    await whole(data[:cut])

    asyncio.run(main())


def test_the_head_is_given_out_before_the_body_is_there() -> None:
    data = message()
    at = data.index(BODY)
    came = incoming(chunks(data[:at]))

    async def main() -> None:
        assert (await came.head()).data == HEAD
        with pytest.raises(PeerProtocolError):
            await came.rest()

    asyncio.run(main())


def test_a_large_body_goes_to_a_file_with_the_reader_s_digest() -> None:
    body = b"0123456789" * 5_000

    async def main() -> Sealed:
        data = message(body)
        return (await whole(*(data[at : at + 4096] for at in range(0, len(data), 4096))))[1]

    sealed = asyncio.run(main())
    assert sealed.body is not None
    assert (sealed.body.file, sealed.body.size, sealed.body.digest) == (1, len(body), hashlib.sha512(body).digest())


def test_a_body_beyond_the_limit_is_refused() -> None:
    async def main() -> None:
        await whole(message(b"a" * 100_001))

    with pytest.raises(PeerProtocolError) as refused:
        asyncio.run(main())
    assert refused.value.kind == "peer.oversized"


@pytest.mark.parametrize("place", ["instead of the head", "instead of the body", "instead of the signature"])
def test_a_fault_is_a_fault_wherever_it_comes(place: str) -> None:
    answer = HEAD.replace(b"POST\r\n/r1/QROO-TEST/GOV/2002/geoportal/incidents", b"200\r\nOK")
    begin = {
        "instead of the head": b"",
        "instead of the body": transport_protocol.prologue(BOUNDARY, REST_RESPONSE, answer),
        "instead of the signature": transport_protocol.prologue(BOUNDARY, REST_RESPONSE, answer, with_body=True) + BODY,
    }[place]
    data = begin + transport_protocol.fault_epilogue(BOUNDARY, FAULT, first=not begin)

    async def main() -> None:
        came = incoming(chunks(data), REST_RESPONSE)
        await came.head()
        await came.rest()

    with pytest.raises(PeerFaultError) as refused:
        asyncio.run(main())
    assert refused.value.fault.code == "server.serverproxy.access_denied"
