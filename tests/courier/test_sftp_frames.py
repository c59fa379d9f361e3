"""What a server says in SFTP is taken apart, or refused: never believed for its lengths."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.courier import sftp_frames as frames
from appliance.courier.sftp_frames import NotSftpError


def test_a_version_names_its_extensions() -> None:
    rest = struct.pack(">I", 3) + frames.string(frames.FSYNC) + frames.string(b"1")

    assert frames.version_of(rest) == (3, {frames.FSYNC})


def test_attributes_give_size_and_kind() -> None:
    rest = struct.pack(">IQIII", 0x07, 1 << 33, 0, 0, 0o040755)

    assert frames.attributes_of(rest) == frames.Attributes(1 << 33, True)


@pytest.mark.parametrize("length", [0, frames.PACKET_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_length_beyond_reason_is_no_packet(length: int) -> None:
    with pytest.raises(NotSftpError):
        frames.length_of(struct.pack(">I", length))


@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    for parse in (frames.answer, frames.version_of, frames.status_of, frames.string_of, frames.attributes_of):
        try:
            parse(data)
        except NotSftpError:
            pass
