"""Port 5577, plain HTTP: our own OCSP responses by certificate hash, for peers that are about to connect (sheet 3.3)."""

from __future__ import annotations

import os
import re

from appliance.net import http1
from appliance.net.connection import ServerConnection
from appliance.net.http1 import RequestHead
from appliance.net.multipart import closing, make_boundary, part_begin
from appliance.relay.trust_view import TrustView

CERTIFICATES_MAX = 8
_SHA1, _SHA256 = re.compile(rb"[?&]cert=([0-9a-fA-F]{40})(?=&|$)"), re.compile(rb"[?&]cert_hash=([0-9a-fA-F]{64})(?=&|$)")


class OcspFront:
    """Answers one part for each `cert` parameter, in their order; `cert_hash` counts only where there is no `cert`."""

    def __init__(self, trust: TrustView) -> None:
        self._trust = trust

    async def serve(self, connection: ServerConnection) -> None:
        while (head := await connection.request()) is not None:
            while await connection.next_chunk() is not None:
                pass  # a GET has no body worth keeping
            connection.write(self._answer(head))
            await connection.drain()
            if not head.keep_alive:
                break
        connection.close()

    def _answer(self, head: RequestHead) -> bytes:
        if head.method == b"HEAD":
            return http1.response_head(200, [(b"Content-Length", b"0")])
        responses = self._asked_for(head.target)
        if head.method != b"GET" or not responses or None in responses:
            text = b"no OCSP response for this certificate\n"
            return http1.response_head(500, [(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(text))]) + text
        boundary = make_boundary(b"xocs", os.urandom(30))
        pieces: list[bytes] = []
        for response in responses:
            pieces += (part_begin(boundary, b"application/ocsp-response", first=not pieces), response or b"")
        body = b"".join((*pieces, closing(boundary)))
        content_type = b'multipart/related; type="application/ocsp-response"; charset=UTF-8; boundary=' + boundary
        return http1.response_head(200, [(b"Content-Type", content_type), (b"Content-Length", b"%d" % len(body))]) + body

    def _asked_for(self, target: bytes) -> list[bytes | None]:
        by_sha1 = [bytes.fromhex(one.decode()) for one in _SHA1.findall(target)[: CERTIFICATES_MAX + 1]]
        if by_sha1:
            found = [self._trust.evidence_by_sha1(one) for one in by_sha1[:CERTIFICATES_MAX]]
        else:
            found = [self._trust.evidence(bytes.fromhex(one.decode())) for one in _SHA256.findall(target)[:CERTIFICATES_MAX]]
        return [one.response if one else None for one in found]
