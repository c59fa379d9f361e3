from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.net import http1
from appliance.net.chunks import EXTENSION_BYTES_MAX, LAST_CHUNK, SMALL_CHUNKS_MAX, chunk
from appliance.net.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    Event,
    HeadLimits,
    MalformedError,
    OversizedError,
    RequestHead,
    RequestReader,
    ResponseReader,
)

HOST = b"Host: box\r\n"
POST = b"POST /r1/QROO/GOB HTTP/1.1\r\n" + HOST


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def read(reader: RequestReader | ResponseReader, pieces: list[bytes]) -> list[object]:
    """All events of all messages, pieces of bodies joined, and the kind of the error at the end if there is one."""
    found: list[object] = []

    def take(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        while found and found[-1] is None:
            found.append("next")
            take(reader.next_message())

    try:
        for piece in pieces:
            take(reader.feed(piece))
        take(reader.end_of_stream())
    except (MalformedError, OversizedError) as error:
        return [each for each in found if not isinstance(each, bytes)] + [error.kind]
    return found


def requests(data: bytes, limits: HeadLimits | None = None) -> list[object]:
    return read(RequestReader(limits or HeadLimits()), [data])


def the_request(data: bytes) -> http1.RequestHead:
    head = RequestReader(HeadLimits()).feed(data)[0]
    assert isinstance(head, http1.RequestHead)
    return head


def the_response(data: bytes, to: bytes = b"GET") -> list[Event]:
    reader = ResponseReader(HeadLimits())
    reader.expect_answer_to(to)
    return reader.feed(data)


def test_target_names_and_values_stay_the_received_bytes_in_the_received_order() -> None:
    head = the_request(b"GET /a%2Fb//c?q=%41&x HTTP/1.1\r\nhOST: box\r\nX-b: 1\r\nx-A:2\r\nX-b: \xc3\xa9 ,\t3 \r\n\r\n")

    assert head.target == b"/a%2Fb//c?q=%41&x"
    assert head.headers == [(b"hOST", b"box"), (b"X-b", b"1"), (b"x-A", b"2"), (b"X-b", b"\xc3\xa9 ,\t3")]
    assert head.header(b"x-b") == b"\xc3\xa9 ,\t3"


@pytest.mark.parametrize("method", sorted(http1.METHODS))
def test_every_method_of_the_message_protocol_is_taken(method: bytes) -> None:
    assert the_request(method + b" / HTTP/1.1\r\n" + HOST + b"\r\n").method == method


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.case("T03")
@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 4, 4\r\n\r\nabcd",
        POST + b"Content-Length: +4\r\n\r\nabcd",
        POST + b"Content-Length: 0x4\r\n\r\nabcd",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0;" + b"a" * (1 << 20) + b"\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n4\nabcd\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcde\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\n\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: box\n\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b" X: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X\0: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /#fragment HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
        b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"CONNECT box:1 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        POST + b"Expect: a miracle\r\n\r\n",
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused_and_nothing_behind_it_is_seen(data: bytes) -> None:
    found = requests(data + SMUGGLED)

    assert found[-1] == "http.malformed"
    assert not any(isinstance(each, http1.RequestHead) and each.target == b"/smuggled" for each in found)


@pytest.mark.case("T44")
def test_bounds_of_a_head_are_exact() -> None:
    fill = 65536 - len(b"GET / HTTP/1.1\r\n" + HOST + b"X: \r\n\r\n")

    def of_size(extra: int) -> list[object]:
        return requests(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (fill + extra) + b"\r\n\r\n")

    assert of_size(0)[1] is None
    assert of_size(1) == ["peer.oversized"]
    assert requests(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 99 + b"\r\n")[1] is None
    assert requests(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100 + b"\r\n") == ["peer.oversized"]
    assert requests(b"GET / HTTP/1.1\r\n" + HOST + b"X:\r\n" * 10000 + b"\r\n") == ["peer.oversized"]
    assert requests(b"GET /" + b"a" * 8191 + b" HTTP/1.1\r\n" + HOST + b"\r\n")[1] is None
    assert requests(b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n") == ["peer.oversized"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"FOO / HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 501),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 70000, 431),
        (POST + b"Transfer-Encoding: zip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: zip, chunked\r\n\r\n", 501),
        (POST + b"Expect: more\r\n\r\n", 417),
    ],
)
def test_an_error_says_which_status_it_deserves(data: bytes, status: int) -> None:
    with pytest.raises((MalformedError, OversizedError)) as caught:
        RequestReader(HeadLimits()).feed(data)

    assert caught.value.status == status


def test_http_1_0_is_taken_but_not_kept_alive() -> None:
    head = the_request(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na")

    assert (head.http_minor, head.keep_alive, head.body_bytes) == (0, False, 1)


@pytest.mark.parametrize(("value", "kept"), [(b"close", False), (b"Close", False), (b"te, CLOSE", False), (b"closed", True)])
def test_connection_close_is_a_token_among_others(value: bytes, kept: bool) -> None:
    assert the_request(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: " + value + b"\r\n\r\n").keep_alive is kept


def test_an_offer_to_upgrade_is_not_taken_up() -> None:
    data = b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"

    assert [each.target for each in requests(data + SMUGGLED) if isinstance(each, http1.RequestHead)] == [b"/a", b"/smuggled"]


def test_pipelined_requests_wait_until_the_message_before_them_is_done() -> None:
    reader = RequestReader(HeadLimits())
    second = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + LAST_CHUNK

    first = reader.feed(POST + b"Content-Length: 2\r\n\r\nhi" + second + SMUGGLED)

    assert first[1:] == [b"hi", None]
    assert reader.held_bytes == len(second + SMUGGLED)
    assert reader.next_message()[1:] == [b"abc", None]
    assert reader.next_message()[1:] == [None]
    assert reader.next_message() == []
    assert reader.between_messages


def test_calling_for_the_next_message_too_early_is_a_bug() -> None:
    reader = RequestReader(HeadLimits())
    reader.feed(POST + b"Content-Length: 2\r\n\r\nh")

    with pytest.raises(RuntimeError):
        reader.next_message()


@pytest.mark.parametrize(
    ("data", "to", "body_bytes", "events"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"GET", 3, [b"abc", None]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"HEAD", 0, [None]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", 0, [None]),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", 0, [None]),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", b"GET", 0, [None]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"GET", CHUNKED, [b"abc", None]),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"GET", UNTIL_CLOSE, [b"abc"]),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET", 0, [None]),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"GET", 0, [None]),
    ],
)
def test_a_response_ends_where_its_request_and_status_say(data: bytes, to: bytes, body_bytes: int, events: list[Event]) -> None:
    head, *rest = the_response(data, to)

    assert isinstance(head, http1.ResponseHead)
    assert head.body_bytes == body_bytes
    assert rest == events


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_a_response_that_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        the_response(data)


def test_a_body_until_close_ends_with_the_stream_and_a_cut_one_does_not() -> None:
    open_ended = ResponseReader(HeadLimits())
    open_ended.feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    counted = ResponseReader(HeadLimits())
    counted.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc")

    assert open_ended.end_of_stream() == [None]
    with pytest.raises(MalformedError):
        counted.end_of_stream()


MESSAGES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        POST + b"Content-Length: 5\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nT: x\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 300) + LAST_CHUNK,
        POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        b"\r\nGET /after-an-empty-line HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nA: " + b"a" * 700 + b"\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: x\r\n" * 2000 + b"\r\n",
        b"\r",
        b"junk",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_events(messages: list[bytes], places: list[int]) -> None:
    data, limits = b"".join(messages), HeadLimits(head_bytes_max=600)

    whole = read(RequestReader(limits), [data])

    for pieces in (cut(data, places), [data[at : at + 1] for at in range(len(data))]):
        found = read(RequestReader(limits), pieces)
        if isinstance(whole[-1], str) and whole[-1] != "next":
            # An error in a message may come before or after the message's head, but it is the same error of the same message.
            assert found[-1] == whole[-1]
            assert found.count("next") == whole.count("next")
        else:
            assert found == whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
@example(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: \r\n\r\n", True)
def test_arbitrary_bytes_give_events_or_one_named_error(data: bytes, valid_begin: bool) -> None:
    for begin in (b"", POST, POST + b"Transfer-Encoding: chunked\r\n\r\n") if valid_begin else (b"",):
        requests(begin + data)
    read(ResponseReader(HeadLimits()), [b"HTTP/1.1 200 OK\r\n" * valid_begin + data])


TOKENS = st.text("abcXYZ-!09", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=12).map(lambda raw: bytes(each for each in raw if each >= 32 and each != 127).strip(b" \t"))


@pytest.mark.case("T01")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=6), st.binary(max_size=400), st.booleans())
def test_h11_reads_what_we_write_and_we_read_it_back(fields: list[tuple[bytes, bytes]], body: bytes, chunked: bool) -> None:
    framing = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"%d" % len(body))
    headers = [(b"Host", b"box"), *((b"X-" + name, value) for name, value in fields), framing]
    data = http1.request_head(b"POST", b"/x", headers) + (chunk(body) + LAST_CHUNK if chunked else body)

    head, *rest = requests(data)

    assert isinstance(head, http1.RequestHead)
    assert head.headers == headers
    assert rest == ([body] if body else []) + [None, "next"]
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(data)
    event = oracle.next_event()
    assert isinstance(event, h11.Request)
    assert event.headers.raw_items() == headers
    received = b""
    while not isinstance(event := oracle.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        received += event.data
    assert received == body


@pytest.mark.parametrize("field", [(b"X", b"a\r\nY: b"), (b"X", b"a\nb"), (b"X\r\nY", b"a"), (b"X", b"a\0"), (b"X", b"a\r")])
def test_a_header_that_would_become_two_is_not_written(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(MalformedError):
        http1.response_head(200, [field])


def test_names_are_written_exactly_as_given() -> None:
    assert http1.response_head(200, [(b"x-hash-algorithm", b"SHA-512")]) == b"HTTP/1.1 200 OK\r\nx-hash-algorithm: SHA-512\r\n\r\n"


@pytest.mark.case("T03")
def test_chunk_extensions_are_bounded() -> None:
    def with_extension(size: int) -> object:
        return requests(POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * size + b"\r\nx\r\n0\r\n\r\n")[-1]

    assert with_extension(EXTENSION_BYTES_MAX) == "next"
    assert with_extension(EXTENSION_BYTES_MAX + 1) == "http.malformed"


@pytest.mark.case("T44")
def test_a_body_of_endless_tiny_chunks_is_refused_before_it_costs_much() -> None:
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (SMALL_CHUNKS_MAX + 1)

    assert requests(data)[-1] == "http.malformed"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://x/a?b=1", b"/a?b=1"), (b"HTTP://10.0.0.1:80/", b"/"), (b"http://x", b"/"), (b"/http://x/", b"/http://x/")],
)
def test_a_listener_for_systems_takes_an_absolute_target_for_its_path(target: bytes, path: bytes) -> None:
    [head, *_] = RequestReader(HeadLimits(absolute_targets=True)).feed(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)

    assert isinstance(head, RequestHead)
    assert head.target == path


@pytest.mark.parametrize("target", [b"http://user@x/", b"https://x/", b"http:///a", b"http://x?b", b"http://x#/", b"x/"])
def test_other_absolute_targets_are_refused(target: bytes) -> None:
    with pytest.raises(MalformedError):
        RequestReader(HeadLimits(absolute_targets=True)).feed(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
