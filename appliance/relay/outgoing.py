"""A message on its way out: the bytes around a body, and the body cut where its parts are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appliance.exchange.ports import Body, Sealed
from appliance.net import transport_protocol
from appliance.relay.bodies import BodyStore


@dataclass(frozen=True, slots=True)
class Outgoing:
    """`frames`: what stands before, between and behind the pieces of the body; one more than there are pieces."""

    frames: tuple[bytes, ...]
    body: Body | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.frames)) + (self.body.size if self.body else 0)

    @property
    def whole(self) -> bytes | None:
        """Everything in one piece: one write. None where the body lies in a file."""
        body = self.body
        if body is None:
            return self.frames[0]
        if body.inline is None:
            return None
        pieces, at = [self.frames[0]], 0
        for size, frame in zip(body.sizes, self.frames[1:], strict=True):
            pieces += (body.inline[at : at + size], frame)
            at += size
        return b"".join(pieces)

    @classmethod
    def between_boxes(cls, boundary: bytes, head_type: str, sealed: Sealed, ocsp: Sequence[bytes] = ()) -> Outgoing:
        """A sealed message in the transport protocol. `head_type`: of a REST message."""
        body, seal = sealed.body, sealed.seal
        end = transport_protocol.epilogue(boundary, seal.signature, seal.chain_result, seal.chain)
        if sealed.soap is not None:
            inner = b"xatt" + boundary.removeprefix(b"xtop")  # as X-Road: one random name for both levels
            attachments = [one.headers for one in body.attachments] if body else []
            parts = sealed.soap.part_headers
            return cls(transport_protocol.soap_frames(boundary, inner, parts, sealed.head, attachments, end, ocsp=ocsp), body)
        begin = transport_protocol.prologue(boundary, head_type, sealed.head, ocsp=ocsp, with_body=body is not None)
        return cls((begin + end,) if body is None else (begin, end), body)

    async def send_body(
        self,
        store: BodyStore,
        write: Callable[[bytes], None],
        drain: Callable[[], Awaitable[None]],
        stop: Callable[[], bool] = lambda: False,
    ) -> bytes:
        """Everything behind the first frame except the last one, which is returned: who sends it knows how a message ends there."""
        if self.body is None:
            raise RuntimeError("no body to send")
        at = 0
        last = len(self.frames) - 1
        for number, (size, frame) in enumerate(zip(self.body.sizes, self.frames[1:], strict=True), 1):
            await store.send(self.body, write, drain, stop, at, at + size)
            at += size
            if number < last and not stop():
                write(frame)
        return self.frames[-1]
