"""Port 5577: our own OCSP responses for whoever asks by the hash of the certificate."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from appliance.clock import SystemClock
from appliance.net.local_client import LocalClient
from appliance.net.multipart import MultipartReader, PartData, boundary_of
from appliance.relay.ocsp_front import CERTIFICATES_MAX, OcspFront
from appliance.relay.trust_view import TrustView
from appliance.trust.wire import Evidence
from tests.net.serving import run, serving

CERTIFICATES = [b"peer", b"seal"]


class TwoResponses(TrustView):
    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), SystemClock(), logging.getLogger("tests"), LocalClient(Path("/nowhere")), lambda: None)
        own = [Evidence(sha256(one), sha1(one), b"about " + one, 0, 0, None) for one in CERTIFICATES]
        self._evidence = {one.certificate_sha256: one for one in own}
        self._evidence_by_sha1 = {one.certificate_sha1: one for one in own}


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


PEER, SEAL = (sha1(one).hex() for one in CERTIFICATES)
PEER_256, SEAL_256 = (sha256(one).hex() for one in CERTIFICATES)
TARGETS: list[tuple[str, list[bytes] | None]] = [
    (f"/?cert={PEER}", [b"about peer"]),
    (f"/?cert={PEER.upper()}", [b"about peer"]),
    (f"/?cert={SEAL}&cert={PEER}", [b"about seal", b"about peer"]),
    (f"/?cert_hash={PEER_256}", [b"about peer"]),
    (f"/?cert={PEER}&cert_hash={SEAL_256}", [b"about peer"]),
    (f"/?other=1&cert_hash={PEER_256}&cert_hash={SEAL_256}", [b"about peer", b"about seal"]),
    ("/", None),
    ("/?cert=", None),
    (f"/?cert={'0' * 40}", None),
    (f"/?cert={PEER}&cert={'0' * 40}", None),
    (f"/?cert={PEER}0", None),
    (f"/?notcert={PEER}", None),
    (f"/?cert_hash={PEER}", None),
]


async def ask(target: str, method: str = "GET", *, times: int = 1) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
    """Status line, headers and body of each answer on one connection."""
    answers = []
    async with serving(OcspFront(TwoResponses()).serve) as served:
        reader, writer = await served.connect()
        for _ in range(times):
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: box\r\n\r\n".encode())
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
            body = await reader.readexactly(int(headers[b"Content-Length"]))
            answers.append((lines[0], headers, body))
    return answers


@pytest.mark.parametrize(("target", "expected"), TARGETS)
def test_each_certificate_asked_for_gets_one_part_or_all_get_an_error(target: str, expected: list[bytes] | None) -> None:
    async def main() -> None:
        ((status, headers, body),) = await ask(target)
        if expected is None:
            assert b" 500 " in status
        else:
            assert b" 200 " in status
            events = MultipartReader(boundary_of(headers[b"Content-Type"])).feed(body)
            assert [event.data for event in events if isinstance(event, PartData)] == expected

    run(main)


def test_a_connection_serves_one_question_after_the_other() -> None:
    async def main() -> None:
        answers = await ask(f"/?cert={PEER}", times=3)
        assert [status.split(b" ")[1] for status, _, _ in answers] == [b"200"] * 3

    run(main)


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200"), ("DELETE", b"500")])
def test_other_methods_get_no_response(method: str, status: bytes) -> None:
    async def main() -> None:
        if method == "HEAD":
            async with serving(OcspFront(TwoResponses()).serve) as served:
                reader, writer = await served.connect()
                writer.write(b"HEAD / HTTP/1.1\r\nHost: box\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1] == status
        else:
            ((line, _, body),) = await ask(f"/?cert={PEER}", method)
            assert (line.split(b" ")[1], b"about" in body) == (status, False)

    run(main)


def test_a_question_about_a_thousand_certificates_is_answered_for_the_first_few() -> None:
    async def main() -> None:
        target = "/?" + "&".join([f"cert={PEER}"] * 100)
        ((status, _, body),) = await ask(target)
        assert b" 200 " in status
        assert body.count(b"about peer") == CERTIFICATES_MAX

    run(main)
