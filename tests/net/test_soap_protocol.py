"""The message protocol for SOAP: what makes a request, what makes an answer its answer, and framing that survives its way byte for byte."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerProtocolError
from appliance.net import soap_mime
from appliance.net.multipart import PartOversizedError, parameter
from appliance.net.soap_mime import SoapMissingError, SoapPart, SoapReader, header_lines, related
from appliance.net.soap_protocol import (
    SoapActionError,
    SoapContentTypeError,
    SoapFraming,
    SoapInconsistentError,
    SoapResponseInconsistentError,
    SoapVersionError,
    check_response,
    parse_request,
    parse_response,
    with_request_hash,
)
from appliance.net.soap_reader import SoapEncodingError, SoapHeaderDuplicateError, SoapHeaderMissingError, SoapMalformedError, read_header
from appliance.net.transport_parts import BodyBegan, BodyData, BodyEnded, TransportLimits
from tests.net.test_soap_reader import CLIENT, ID, SERVICE, envelope

VERSION = "<xrd:protocolVersion>4.0</xrd:protocolVersion>"
WHOLE = CLIENT + SERVICE + ID + VERSION
PLAIN = SoapFraming(((b"Content-Type", b"text/xml; charset=UTF-8"),), b"text/xml; charset=UTF-8", b'""')
SERVER = (
    '<xrd:securityServer id:objectType="SERVER"><id:xRoadInstance>DEV</id:xRoadInstance><id:memberClass>COM</id:memberClass>'
    "<id:memberCode>1234</id:memberCode><id:serverCode>SS1</id:serverCode></xrd:securityServer>"
)
PARTY = (
    '<r:representedParty xmlns:r="http://x-road.eu/xsd/representation.xsd"><r:partyClass>COM</r:partyClass>'
    "<r:partyCode>9</r:partyCode></r:representedParty>"
)


def test_every_header_of_the_protocol_is_read() -> None:
    header = read_header(envelope(WHOLE + "<xrd:userId>u</xrd:userId><xrd:issue>i</xrd:issue>" + SERVER + PARTY))

    assert (header.user_id, header.issue, header.protocol_version, header.represented_party) == ("u", "i", "4.0", "COM/9")
    assert str(header.security_server) == "DEV/COM/1234/SS1"
    assert header.request_hash is None


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (envelope(CLIENT + SERVICE + ID), SoapHeaderMissingError),
        (envelope(CLIENT + SERVICE + ID + VERSION.replace("4.0", "5.0")), SoapVersionError),
        (envelope(WHOLE, "<pong/>"), SoapInconsistentError),
        (envelope(WHOLE, "<pingResponse/>"), SoapInconsistentError),
        (envelope(WHOLE + SERVER + SERVER), SoapHeaderDuplicateError),
        (envelope(WHOLE + PARTY + PARTY), SoapHeaderDuplicateError),
        (envelope(WHOLE + "<xrd:userId>a</xrd:userId><xrd:userId>b</xrd:userId>"), SoapHeaderDuplicateError),
        (envelope(WHOLE + PARTY.replace("<r:partyCode>9</r:partyCode>", "")), SoapMalformedError),
        (envelope(WHOLE.replace("q-1", "q-<b/>1")), SoapMalformedError),
        (envelope(WHOLE.replace("4321", "43<b/>21")), SoapMalformedError),
        (envelope(WHOLE).replace(b"UTF-8", b"UTF-7"), SoapEncodingError),
        (b"\xef\xbb\xbf" + envelope(WHOLE).replace(b"UTF-8", b"latin1"), SoapEncodingError),
    ],
)
def test_what_is_no_request_is_refused_by_name(head: bytes, error: type[PeerProtocolError]) -> None:
    with pytest.raises(error):
        parse_request(head, PLAIN, "r")


@pytest.mark.parametrize(
    ("headers", "action", "error"),
    [
        ((), None, SoapContentTypeError),
        ((b"text/xml", b"text/xml"), None, SoapContentTypeError),
        ((b"text/xml; charset=utf-16",), None, SoapContentTypeError),
        ((b"application/soap+xml",), None, SoapContentTypeError),
        ((b"text/xml",), b"x", SoapActionError),
        ((b"text/xml",), b'"a b"', SoapActionError),
    ],
)
def test_framing_that_another_reader_could_read_in_another_way_is_refused(
    headers: tuple[bytes, ...], action: bytes | None, error: type[PeerProtocolError]
) -> None:
    with pytest.raises(error):
        parse_request(envelope(WHOLE), SoapFraming(tuple((b"Content-Type", one) for one in headers), b"", action), "r")


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("old", ["", "<xrd:requestHash/>", '\n <xrd:requestHash algorithmId="&gt;>">x<!-- --></xrd:requestHash> '])
@pytest.mark.parametrize("after", ["", "<!-- c -->", "\n  ", "<?x?>", "<![CDATA[]]>"])
def test_the_hash_goes_behind_the_id_and_every_other_byte_stays(bom: bytes, old: str, after: str) -> None:
    request = parse_request(envelope(WHOLE), PLAIN, "r")
    plain = bom + envelope(CLIENT + SERVICE + ID + after + VERSION, "<ñ:pingResponse xmlns:ñ='urn:x'>é<xrd:id>no</xrd:id></ñ:pingResponse>")
    answer = plain.replace(b"<xrd:protocolVersion>", old.encode() + b"<xrd:protocolVersion>")

    made = with_request_hash(answer, request)

    check_response(parse_response(made), request)
    start, end = made.index(b"<xrd:requestHash"), made.index(b"</xrd:requestHash>") + len(b"</xrd:requestHash>")
    assert made[:start].endswith(b"</xrd:id>")
    cut = made[:start] + made[end:]
    assert cut == answer.replace(old.strip().encode(), b"") if old else cut == plain


def test_a_hash_of_another_request_or_algorithm_is_no_answer() -> None:
    request, other = parse_request(envelope(WHOLE), PLAIN, "r"), parse_request(envelope(WHOLE, "<ping2/>"), PLAIN, "r")
    made = with_request_hash(envelope(WHOLE, "<pingResponse/>"), request)

    for one, answer in [(other, made), (request, made.replace(b"sha512", b"sha256")), (request, envelope(WHOLE, "<pingResponse/>"))]:
        with pytest.raises(SoapResponseInconsistentError, match="requestHash"):
            check_response(parse_response(answer), one)


# -- framing

tokens = st.sampled_from([b"Content-ID", b"content-type", b"X-A", b"Content-Transfer-Encoding"])
values = st.sampled_from([b"<a@b>", b"text/plain; x=1", "ñ".encode(), b"binary", b""])
contents = st.lists(
    st.tuples(st.lists(st.tuples(tokens, values), max_size=3, unique_by=lambda one: one[0].lower()), st.binary(max_size=400)), max_size=4
)


@given(contents, st.lists(st.integers(1, 80), max_size=30))
def test_what_is_framed_is_read_again_however_it_is_cut(parts: list[tuple[list[tuple[bytes, bytes]], bytes]], cuts: list[int]) -> None:
    head = envelope(WHOLE)
    framing = SoapFraming((*PLAIN.part_headers, (b"Content-ID", b"<root>")), b"multipart/related; boundary=x", b'""')
    boundary = b"xmimeABCDEFGHIJKLMNOPQRSTUVWXYZabcd"
    content_type, frames = related(framing, head, [header_lines(headers) for headers, _ in parts], boundary)
    whole = frames[0] + b"".join(content + frame for (_, content), frame in zip(parts, frames[1:], strict=True))

    reader, events, at = SoapReader(content_type, TransportLimits(), b'""'), [], 0
    for size in [*cuts, len(whole)]:
        events += reader.feed(whole[at : at + size])
        at += size
    events += reader.finish()

    (part,) = [event for event in events if isinstance(event, SoapPart)]
    assert part.data == head
    if parts:
        assert part.framing.part_headers == framing.part_headers
        assert parameter(content_type, "start") == b"<root>"
    assert [list(event.headers) for event in events if isinstance(event, BodyBegan)] == [headers for headers, _ in parts]
    ended = [event for event in events if isinstance(event, BodyEnded)]
    assert [(event.size, event.digest) for event in ended] == [(len(body), hashlib.sha512(body).digest()) for _, body in parts]
    assert b"".join(event.data for event in events if isinstance(event, BodyData)) == b"".join(body for _, body in parts)


def test_what_older_libraries_tell_readers_of_mail_is_passed_over() -> None:
    part = b"--B\r\nContent-Type: text/xml\r\n\r\n" + envelope(WHOLE) + b"\r\n--B--\r\n"
    reader = SoapReader(b"multipart/related; boundary=B", TransportLimits())

    (event,) = reader.feed(b"This is a multi-part message in MIME format.\r\n" + part + b"This is the end.\r\n")
    assert isinstance(event, SoapPart)
    assert event.data == envelope(WHOLE)
    assert reader.finish() == []


def test_only_what_is_computed_or_harmless_of_the_senders_content_type_is_passed_on() -> None:
    xop = ((b"Content-Type", b'application/xop+xml; type="text/xml"'), (b"Content-ID", b"<r>"))
    original = b'multipart/related; boundary=evil; start="<other>"; type="x"; start-info="a/b"; x=y'
    content_type, _ = related(SoapFraming(xop, original), b"<a/>", [b""], b"B")

    assert content_type == b'multipart/related; type="application/xop+xml"; start="<r>"; start-info="a/b"; boundary="B"'
    assert related(PLAIN, b"<a/>", [], b"B") == (soap_mime.PLAIN_TYPE, (b"<a/>",))


def test_limits_are_held_while_it_is_read() -> None:
    small = replace(TransportLimits(), soap_bytes_max=10, body_bytes_max=10, attachments_max=2)
    part = b"--B\r\nContent-Type: text/xml\r\n\r\n"

    with pytest.raises(PartOversizedError):
        SoapReader(b"text/xml", small).feed(b"x" * 11)
    with pytest.raises(PartOversizedError):
        SoapReader(b"multipart/related; boundary=B", small).feed(part + b"x" * 200)
    with pytest.raises(PartOversizedError):
        SoapReader(b"multipart/related; boundary=B", small).feed(part + b"x\r\n--B\r\n\r\n" + b"y" * 200)
    with pytest.raises(SoapMissingError):
        SoapReader(b"text/xml", small).finish()


@given(st.binary(max_size=300), st.sampled_from([b"text/xml", b"multipart/related; boundary=B", b"multipart/related; boundary=B; start=a"]))
def test_arbitrary_bytes_give_a_message_or_one_of_our_errors(data: bytes, content_type: bytes) -> None:
    reader = SoapReader(content_type, TransportLimits())
    try:
        reader.feed(data)
        reader.finish()
    except PeerProtocolError:
        pass
