"""The other processes' way to the signer.

A signature that was cut off by the signer's death is asked for once more: its parent holds the socket, so the second request waits in the
backlog until the signer is back (within 3 s). A seal or a handshake signature that nobody received harms nobody.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from appliance.hsm.wire import HandshakeRequest, KeyRecord, SealReply, SealRequest
from appliance.net.local_client import BlockingClient, LocalClient, NeighbourAwayError
from appliance.net.local_sockets import channel_path

SIGN_S_MAX = 15.0
"""Wait for one signature: the signer's own deadline is 10 s."""
IDLE_CONNECTIONS_MAX = 16
"""Connections kept for handshakes between calls; as many threads as sign at once open more."""


class SignerClient:
    """For the event loop of one process."""

    def __init__(self, state: Path, process: str) -> None:
        self._client = LocalClient(channel_path(state, "signer", process))

    async def seal(self, member: str, signed: str, content: bytes, signing_time_us: int) -> SealReply:
        """One seal (`wire.SealRequest`). Raises token.*, key.*, seal.* by kind, NeighbourAwayError."""
        request = SealRequest(member, signed, content, signing_time_us)
        try:
            reply: SealReply = await self._client.call("sign_seal", request, SealReply, SIGN_S_MAX)
        except NeighbourAwayError:
            reply = await self._client.call("sign_seal", request, SealReply, SIGN_S_MAX)
        return reply

    async def keys(self) -> list[KeyRecord]:
        """Every key with its certificates, the one in force first."""
        found: list[KeyRecord] = await self._client.call("list_keys", None, list[KeyRecord])
        return found

    def close(self) -> None:
        self._client.close()


class HandshakeSigner:
    """The sign callback of `net.token_key`, called from any number of handshake threads."""

    def __init__(self, state: Path, process: str, label: str) -> None:
        self._path, self._label = channel_path(state, "signer", process), label
        self._idle: deque[BlockingClient] = deque(maxlen=IDLE_CONNECTIONS_MAX)

    def __call__(self, digest: bytes, certificate_sha256: bytes = b"") -> bytes:
        """DER. Blocks until the token has signed, with the key of that certificate. Raises token.*, key.* by kind, NeighbourAwayError."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = BlockingClient(self._path, SIGN_S_MAX)
        request = HandshakeRequest(self._label, digest, certificate_sha256)
        try:
            try:
                signature: bytes = client.call("sign_handshake", request, bytes)
            except NeighbourAwayError:
                signature = client.call("sign_handshake", request, bytes)
        finally:
            if len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(client)
            else:
                client.close()
        return signature

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
