"""Bodies at rest: every chunk is bound to its body, its place and the end."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.messagelog import stream
from appliance.messagelog.stream import CHUNK_BYTES, KEY_BYTES, SEALED_CHUNK_BYTES, BodyCipher, BodySealBrokenError

SIZES = st.one_of(
    st.integers(1, 70_000), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
)


@settings(deadline=None, max_examples=40)
@given(SIZES)
def test_a_body_opens_as_a_whole_and_chunk_by_chunk(size: int) -> None:
    body, cipher = os.urandom(size), BodyCipher(os.urandom(KEY_BYTES))

    sealed = cipher.seal(body, 0, last=True)

    assert len(sealed) == stream.sealed_bytes(size)
    assert cipher.open(sealed, 0, size=size) == body
    pieces = [
        cipher.open(sealed[at * SEALED_CHUNK_BYTES : (at + 1) * SEALED_CHUNK_BYTES], at, size=size) for at in range(stream.chunks_of(size))
    ]
    assert b"".join(pieces) == body


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 3 * CHUNK_BYTES + 1000) | st.sampled_from(range(0, 3 * SEALED_CHUNK_BYTES, SEALED_CHUNK_BYTES)),
    st.sampled_from(["flip", "cut", "swap", "drop", "other key", "grown"]),
)
def test_nothing_opens_of_a_body_that_was_changed_moved_or_cut(at: int, harm: str) -> None:
    size = 3 * CHUNK_BYTES + 1000
    body, cipher = os.urandom(size), BodyCipher(os.urandom(KEY_BYTES))
    sealed = bytearray(cipher.seal(body, 0, last=True))
    match harm:
        case "flip":
            sealed[at] ^= 1
        case "cut":
            del sealed[at:]
        case "swap":
            one, two = sealed[:SEALED_CHUNK_BYTES], sealed[SEALED_CHUNK_BYTES : 2 * SEALED_CHUNK_BYTES]
            sealed[: 2 * SEALED_CHUNK_BYTES] = two + one
        case "drop":
            del sealed[SEALED_CHUNK_BYTES : 2 * SEALED_CHUNK_BYTES]
        case "other key":
            cipher = BodyCipher(os.urandom(KEY_BYTES))
        case _:
            sealed += sealed[:SEALED_CHUNK_BYTES]

    if harm == "cut" and at % SEALED_CHUNK_BYTES == 0:
        left = at // SEALED_CHUNK_BYTES * CHUNK_BYTES
        assert cipher.open(bytes(sealed), 0, size=size) == body[:left]  # the reader misses the rest by size
        if left:
            with pytest.raises(BodySealBrokenError):
                cipher.open(bytes(sealed), 0, size=left)
        return
    with pytest.raises(BodySealBrokenError):
        cipher.open(bytes(sealed), 0, size=size)
