"""The incremental multipart reader: any cut gives the same events, arbitrary bytes give events or a named error."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.errors import PeerProtocolError
from appliance.net.multipart import (
    Finished,
    MultipartMalformedError,
    MultipartReader,
    PartBegan,
    PartData,
    PartEnded,
    PartOversizedError,
    TooManyPartsError,
    boundary_of,
    closing,
    content_type_of,
    make_boundary,
    media_type,
    parameter,
    part_begin,
)

B = b"xtopABCDEF"
# Pieces that look like framing, so that random bodies come close to boundaries all the time.
_NASTY = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", b"\n--", b"\r\n--" + B, b"\n--" + B + b"x", b"--" + B + b"-", b" ", b"a", b"\0"]
)
_BODY = st.lists(_NASTY | st.binary(max_size=4), max_size=12).map(b"".join)


def parts_of(data: bytes, cuts: list[int] | None = None, **limits: int) -> list[tuple[bytes, bytes]]:
    """Content type and body of every part, fed whole or in pieces."""
    reader = MultipartReader(B, **limits)
    found: list[tuple[bytes, bytes]] = []
    ended = 0
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        for event in reader.feed(data[start:end]):
            match event:
                case PartBegan():
                    found.append((event.content_type, b""))
                case PartData():
                    assert event.data
                    found[-1] = (found[-1][0], found[-1][1] + event.data)
                case PartEnded():
                    ended += 1
                case Finished():
                    assert ended == len(found)
    reader.end()
    return found


def written(*bodies: bytes) -> bytes:
    pieces = [part_begin(B, b"a/b", first=at == 0) + body for at, body in enumerate(bodies)]
    return b"".join(pieces) + closing(B)


def outcome(data: bytes, cuts: list[int], **limits: int) -> object:
    try:
        return parts_of(data, cuts, **limits)
    except PeerProtocolError as error:
        return error.kind


def test_a_message_is_written_as_x_road_frames_it() -> None:
    expected = b"--xtopABCDEF\r\ncontent-type: a/b\r\n\r\none\r\n--xtopABCDEF\r\ncontent-type: a/b\r\n\r\n\r\n--xtopABCDEF--\r\n"

    assert written(b"one", b"") == expected
    assert parts_of(expected) == [(b"a/b", b"one"), (b"a/b", b"")]


@given(st.lists(_BODY, min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_parts(bodies: list[bytes], cuts: list[int]) -> None:
    data = written(*bodies)

    assert outcome(data, cuts) == outcome(data, [])
    assert outcome(data, list(range(len(data)))) == outcome(data, [])


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
@example([b"ends with a return\r", b"\n", b"\r\n--", b"--xtopABCDEFG"])
def test_what_is_written_is_read_back(bodies: list[bytes]) -> None:
    assert parts_of(written(*bodies)) == [(b"a/b", body) for body in bodies]


@settings(max_examples=300)
@given(_BODY, _BODY, st.lists(st.integers(0, 500), max_size=5), st.sampled_from([8, 80, 1024]))
@example(b"This is a multi-part message in MIME format.\r\n", b"\r\nend", [50, 60], 1024)
@example(b"twenty letters and more--" + B + b"\r\n", b"", [20, 24, 25], 1024)
def test_text_around_the_parts_is_passed_over_up_to_its_bound_however_it_is_cut(
    before: bytes, after: bytes, cuts: list[int], text_bytes_max: int
) -> None:
    data = before + b"\r\n" + written(b"x") + after
    found = outcome(data, cuts, text_bytes_max=text_bytes_max)

    assert found == outcome(data, [], text_bytes_max=text_bytes_max) == outcome(data, list(range(len(data))), text_bytes_max=text_bytes_max)
    if b"--" + B not in before and len(before) + len(after) + 4 <= max(text_bytes_max, 64):
        assert found == [(b"a/b", b"x")]
    elif len(before) > max(text_bytes_max, 64) and b"--" + B not in before:
        assert found == "multipart.malformed"


@settings(max_examples=300)
@given(_BODY | st.binary(max_size=300), st.lists(st.integers(0, 500), max_size=5))
@example(b"--xtopABCDEF--\r\n", [])
@example(b"--xtopABCDEF\r\n:\r\n\r\n", [])
def test_arbitrary_bytes_give_parts_or_one_of_our_errors(data: bytes, cuts: list[int]) -> None:
    for start in (b"", b"--" + B + b"\r\n"):
        assert outcome(start + data, cuts) == outcome(start + data, [])


def test_lf_line_ends_are_read_and_take_nothing_from_the_body() -> None:
    data = b"--xtopABCDEF\nContent-Type:a/b\n\none\n\n--xtopABCDEF\nContent-Type:  c/d\n\ntwo\n--xtopABCDEF--"

    assert parts_of(data) == [(b"a/b", b"one\n"), (b"c/d", b"two")]


def test_a_line_end_before_the_first_boundary_is_read_as_x_road_writes_it_in_attachments() -> None:
    assert parts_of(b"\r\n" + written(b"x") + b"\r\n") == [(b"a/b", b"x")]


def test_a_part_may_have_no_headers_and_folded_ones_are_joined() -> None:
    events = MultipartReader(B).feed(
        b"--xtopABCDEF\r\n\r\nx\r\n--xtopABCDEF\r\nContent-Type: a/b;\r\n\tcharset=x\r\n\r\ny\r\n--xtopABCDEF--\r\n"
    )

    first, second = (event for event in events if isinstance(event, PartBegan))
    assert first == PartBegan((), b"")
    assert second == PartBegan(((b"Content-Type", b"a/b; charset=x"),), b"Content-Type: a/b;\r\n\tcharset=x\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"preamble\r\n" + written(b"x"),
        b"\r\n" * 40 + written(b"x"),
        written(b"x") + b"more",
        written(b"x") + b" " * 100,
        closing(B)[2:],
        written(b"x")[:-6],
        b"--xtopABCDEF\r\nno colon\r\n\r\nx" + closing(B),
        b"--xtopABCDEF\r\n folded: first\r\n\r\nx" + closing(B),
        b"--xtopABCDEF\r\nbad name: x\r\n\r\nx" + closing(B),
        b"--xtopABCDEF\r\na: nul\0\r\n\r\nx" + closing(B),
        b"--xtopABCDEFG\r\na: b\r\n\r\nx" + closing(B),
    ],
)
def test_what_is_not_framed_as_multipart_is_refused(data: bytes) -> None:
    with pytest.raises(MultipartMalformedError):
        parts_of(data)


@pytest.mark.case("T05")
def test_endless_headers_parts_and_padding_are_stopped() -> None:
    with pytest.raises(PartOversizedError):
        parts_of(b"--xtopABCDEF\r\na: " + b"x" * 9000)
    with pytest.raises(PartOversizedError):
        parts_of(b"--xtopABCDEF\r\na: " + b"x" * 9000 + b"\r\n\r\n" + closing(B))
    with pytest.raises(TooManyPartsError):
        parts_of(written(*[b""] * 5), parts_max=4)
    assert parts_of(written(b"\r\n--xtopABCDEF" + b" " * 65 + b"\r\n")) == [(b"a/b", b"\r\n--xtopABCDEF" + b" " * 65 + b"\r\n")]


def test_two_content_types_of_one_part_are_refused() -> None:
    with pytest.raises(MultipartMalformedError):
        parts_of(b"--xtopABCDEF\r\nContent-Type: a/b\r\ncontent-type: c/d\r\n\r\nx" + closing(B))


@pytest.mark.case("T05")
def test_no_more_than_a_boundary_is_held_back_while_a_body_streams() -> None:
    reader = MultipartReader(B)
    reader.feed(part_begin(B, b"a/b", first=True))

    given_out = sum(len(event.data) for event in reader.feed(b"\r\n--" * 25_000) if isinstance(event, PartData))

    assert 100_000 - given_out < 40


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/mixed; charset=UTF-8; boundary=xtopABC", b"xtopABC"),
        (b'Multipart/Mixed;boundary="a b"', b"a b"),
        (b'multipart/mixed; boundary="a\\+b" ; x=y', b"a+b"),
    ],
)
def test_the_boundary_of_a_content_type_is_read(value: bytes, boundary: bytes) -> None:
    assert boundary_of(value) == boundary
    assert media_type(value) == "multipart/mixed"


@pytest.mark.parametrize(
    "value",
    [
        b"multipart/mixed",
        b"multipart/mixed; boundary=",
        b"multipart/mixed; boundary=a; boundary=b",
        b'x; boundary="a',
        b"x; boundary=" + b"a" * 71,
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(value: bytes) -> None:
    with pytest.raises(MultipartMalformedError):
        boundary_of(value)


@given(st.binary(max_size=60))
def test_arbitrary_content_types_give_a_value_or_our_error(value: bytes) -> None:
    media_type(value)
    try:
        parameter(b"a/b;" + value, "boundary")
    except MultipartMalformedError:
        pass


def test_a_boundary_is_made_of_thirty_letters() -> None:
    boundary = make_boundary(b"xtop", bytes(range(30)))

    assert boundary == b"xtopABCDEFGHIJKLMNOPQRSTUVWXYZabcd"
    assert content_type_of(boundary) == b"multipart/mixed; charset=UTF-8; boundary=xtopABCDEFGHIJKLMNOPQRSTUVWXYZabcd"
