"""Records of the log as ASiC-E containers (sheet 4.9): whole where they are small, streamed where a body is large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from appliance.messagelog import stream
from appliance.messagelog.segments import BodyUnreadableError
from appliance.messagelog.stream import BodyCipher
from appliance.messagelog.wire import RecordContent
from appliance.seal.container import Contents, stream_container, write_container

STREAMED_BYTES_MIN = 8 << 20
"""Larger bodies never lie in memory whole."""
_PIECE_CHUNKS = 16


def container_of(content: RecordContent, body: bytes | None) -> bytes:
    """The record as an ASiC-E container, the same bytes every time (sheet 4.9)."""
    return write_container(_contents(content, _attachments(content, body)), content.summary.at_us)


def write_to(output: BinaryIO, content: RecordContent, descriptor: int) -> None:
    """The container into a stream that need not seek. `descriptor`: of the sealed body, or of nothing. Raises BodySealBrokenError."""
    if content.body_in_descriptor and content.body_bytes >= STREAMED_BYTES_MIN:
        sizes = content.attachment_bytes or [content.body_bytes]
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        parts = [opened(content, descriptor, start, size) for start, size in zip(starts, sizes, strict=True)]
        stream_container(output, _contents(content, []), content.summary.at_us, parts)
        return
    body = b"".join(opened(content, descriptor, 0, content.body_bytes)) if content.body_in_descriptor else content.body
    output.write(container_of(content, body))


def opened(content: RecordContent, descriptor: int, start: int, size: int) -> Iterator[bytes]:
    """Bytes `start` to `start + size` of a body in a file, in pieces of a MiB at most. Raises BodySealBrokenError, BodyUnreadableError."""
    if content.body_key is None:
        raise RuntimeError("a body in a file without its key")
    cipher, at, end = BodyCipher(content.body_key), start, start + size
    while at < end:
        first = at // stream.CHUNK_BYTES
        try:
            sealed = os.pread(descriptor, _PIECE_CHUNKS * stream.SEALED_CHUNK_BYTES, first * stream.SEALED_CHUNK_BYTES)
        except OSError as error:
            raise BodyUnreadableError(f"the body's file: {error.strerror}") from None
        skipped = at - first * stream.CHUNK_BYTES
        piece = cipher.open(sealed, first, size=content.body_bytes)[skipped : skipped + end - at]
        if not piece:
            raise stream.BodySealBrokenError("the body's file is shorter than the body")
        yield piece
        at += len(piece)


def _contents(content: RecordContent, attachments: list[bytes]) -> Contents:
    seal = content.seal
    return Contents(
        message=content.message,
        signature=seal.signature,
        chain_result=seal.chain_result,
        chain=seal.chain,
        stamp_token=content.stamp_token,
        stamp_chain_result=content.ts_chain_result,
        stamp_chain=content.ts_chain,
        attachments=attachments,
    )


def _attachments(content: RecordContent, body: bytes | None) -> list[bytes]:
    """A REST body is the first and only attachment; the SOAP attachments lie in it one behind the other."""
    if body is None:
        return []
    found, at = [], 0
    for size in content.attachment_bytes or [len(body)]:
        found.append(body[at : at + size])
        at += size
    return found
