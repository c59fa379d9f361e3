"""The transport protocol: parts in their order, bounded; nothing after the signature; the envelope around them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerProtocolError
from appliance.net.multipart import PartOversizedError, closing, part_begin
from appliance.net.transport_envelope import (
    EnvelopeError,
    EnvelopeMethodError,
    EnvelopeTypeError,
    HttpStatusError,
    ProxyVersionError,
    check_request,
    check_response,
    check_version,
    fault_headers,
    request_headers,
    response_headers,
)
from appliance.net.transport_parts import (
    ANY_HEAD,
    REST_REQUEST,
    REST_RESPONSE,
    SOAP,
    BodyBegan,
    BodyData,
    BodyEnded,
    ExtraContentError,
    FaultPart,
    HeadMissingError,
    HeadPart,
    OcspPart,
    OcspPartError,
    SealedMessage,
    SignatureMissingError,
    SignaturePart,
    TransportEvent,
    TransportLimits,
    UnexpectedPartError,
)
from appliance.net.transport_protocol import TransportReader, epilogue, fault_epilogue, message_boundary, prologue, whole_message

B = message_boundary(bytes(30))
HEAD, DER = b"GET\r\n/r1/a\r\n", b"\x30\x03\x02\x01\x07"
FAULT = (
    b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault><faultcode>Server.ServerProxy.AccessDenied</faultcode>'
    b"<faultstring>no</faultstring><faultactor/><detail><faultDetail>42</faultDetail></detail></e:Fault></e:Body></e:Envelope>"
)
ENVELOPE = b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Header/><e:Body><x/></e:Body></e:Envelope>'
PIECES = {
    "ocsp": (b"application/ocsp-response", DER),
    "request": (b"application/x-road-rest-request", HEAD),
    "response": (b"application/x-road-rest-response", b"200\r\nOK\r\n"),
    "soap": (b"text/xml; charset=UTF-8", ENVELOPE),
    "body": (b"application/x-road-rest-body", b"{}"),
    "attachments": (b"multipart/mixed; boundary=in", b"--in\r\nContent-ID: <1>\r\n\r\none\r\n--in\r\n\r\ntwo\r\n--in--\r\n"),
    "result": (b"application/hash-chain-result", b"<r/>"),
    "chain": (b"application/hash-chain", b"<c/>"),
    "signature": (b"signature/bdoc-1.0/ts", b"<s/>"),
    "fault": (b"text/xml", FAULT),
    "other": (b"text/plain", b"hello"),
}


def message(*names: str) -> bytes:
    return b"".join(part_begin(B, PIECES[name][0], first=at == 0) + PIECES[name][1] for at, name in enumerate(names)) + closing(B)


def read(
    data: bytes, size: int = 1 << 20, expects: frozenset[str] = ANY_HEAD, limits: TransportLimits | None = None
) -> tuple[SealedMessage | FaultPart, list[TransportEvent]]:
    reader = TransportReader(B, expects, limits)
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    return reader.finish(), events


def sealed(data: bytes, size: int = 1 << 20) -> SealedMessage:
    found, _ = read(data, size)
    assert isinstance(found, SealedMessage)
    return found


def test_a_request_with_a_body_is_read_part_by_part_and_hashed() -> None:
    data = whole_message(B, REST_REQUEST, HEAD, b"{}", b"<s/>", b"<r/>", b"<c/>", ocsp=[DER, DER])

    found, events = read(data)

    head = HeadPart(REST_REQUEST, HEAD, hashlib.sha512(HEAD).digest(), ((b"content-type", b"application/x-road-rest-request"),), (DER, DER))
    body = BodyEnded(1, 2, hashlib.sha512(b"{}").digest())
    assert found == SealedMessage(head, (body,), b"<r/>", b"<c/>", b"<s/>")
    assert [type(event).__name__ for event in events[:4]] == ["OcspPart", "OcspPart", "HeadPart", "BodyBegan"]
    assert events[4:6] == [BodyData(b"{}"), body]
    assert events[-1] == SignaturePart(b"<s/>")
    assert data == message("ocsp", "ocsp", "request", "body", "result", "chain", "signature")


@given(st.integers(1, 400))
def test_any_size_of_the_pieces_gives_the_same_message(size: int) -> None:
    for names in (("ocsp", "request", "body", "result", "chain", "signature"), ("soap", "attachments", "result", "chain", "signature")):
        assert sealed(message(*names), size) == sealed(message(*names))


def test_a_streamed_body_is_written_between_prologue_and_epilogue() -> None:
    body = b"x" * 300_000

    data = prologue(B, REST_RESPONSE, b"200\r\n\r\n", with_body=True) + body + epilogue(B, b"<s/>", b"<r/>", b"<c/>")

    found = sealed(data, 4096)
    assert found.bodies == (BodyEnded(1, 300_000, hashlib.sha512(body).digest()),)
    assert found.attachment_digests == (hashlib.sha512(body).digest(),)


def test_an_empty_body_part_is_a_part() -> None:
    assert sealed(whole_message(B, REST_REQUEST, HEAD, b"", b"<s/>")).bodies == (BodyEnded(1, 0, hashlib.sha512().digest()),)
    assert sealed(whole_message(B, REST_REQUEST, HEAD, None, b"<s/>")).bodies == ()


def test_attachments_of_a_soap_message_are_numbered_hashed_and_keep_their_headers() -> None:
    found, events = read(message("soap", "attachments", "result", "chain", "signature"))

    assert isinstance(found, SealedMessage)
    assert found.head.kind == SOAP
    assert found.attachment_digests == (hashlib.sha512(b"one").digest(), hashlib.sha512(b"two").digest())
    assert [event for event in events if isinstance(event, BodyBegan)] == [
        BodyBegan(1, ((b"Content-ID", b"<1>"),), b"Content-ID: <1>\r\n"),
        BodyBegan(2, (), b""),
    ]


@pytest.mark.parametrize(
    "names", [("fault",), ("ocsp", "fault"), ("request", "fault"), ("response", "body", "fault"), ("soap", "attachments", "fault")]
)
def test_a_fault_may_stand_alone_or_in_place_of_the_rest(names: tuple[str, ...]) -> None:
    found, _ = read(message(*names))

    assert isinstance(found, FaultPart)
    assert (found.fault.code, found.fault.message, found.fault.detail) == ("Server.ServerProxy.AccessDenied", "no", "42")
    assert found.data == FAULT


def test_a_fault_that_ends_a_stream_is_read_back() -> None:
    begun = prologue(B, REST_RESPONSE, b"200\r\n\r\n", with_body=True) + b"half a body"

    assert isinstance(read(begun + fault_epilogue(B, FAULT))[0], FaultPart)
    assert isinstance(read(fault_epilogue(B, FAULT, first=True))[0], FaultPart)


@pytest.mark.case("T04")
@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("request", "signature", "other"), ExtraContentError),
        (("request", "signature", "signature"), ExtraContentError),
        (("request", "fault", "signature"), ExtraContentError),
        (("request", "other"), UnexpectedPartError),
        (("request", "ocsp", "signature"), UnexpectedPartError),
        (("request", "request", "signature"), UnexpectedPartError),
        (("request", "body", "body", "signature"), UnexpectedPartError),
        (("request", "attachments", "signature"), UnexpectedPartError),
        (("soap", "body", "signature"), UnexpectedPartError),
        (("soap", "soap", "signature"), UnexpectedPartError),
        (("request", "chain", "signature"), UnexpectedPartError),
        (("request", "result", "signature"), UnexpectedPartError),
        (("request", "result", "fault"), UnexpectedPartError),
        (("body", "signature"), UnexpectedPartError),
        (("signature",), UnexpectedPartError),
        (("other",), UnexpectedPartError),
        (("ocsp",), HeadMissingError),
        (("request", "body"), SignatureMissingError),
        (("request", "result", "chain"), SignatureMissingError),
    ],
)
def test_parts_out_of_order_or_missing_are_refused(names: tuple[str, ...], error: type[PeerProtocolError]) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(error):
            read(message(*names), size)


def test_a_head_of_another_kind_than_expected_is_refused() -> None:
    for name in ("response", "soap"):
        with pytest.raises(UnexpectedPartError):
            read(message(name, "signature"), expects=frozenset({REST_REQUEST}))
    assert isinstance(read(message("fault"), expects=frozenset({REST_REQUEST}))[0], FaultPart)


@pytest.mark.case("T05")
@pytest.mark.parametrize(
    ("names", "limits"),
    [
        (("request", "signature"), TransportLimits(head_bytes_max=len(HEAD) - 1)),
        (("soap", "signature"), TransportLimits(soap_bytes_max=20)),
        (("request", "body", "signature"), TransportLimits(body_bytes_max=1)),
        (("soap", "attachments", "signature"), TransportLimits(body_bytes_max=5)),
        (("ocsp", "request", "signature"), TransportLimits(ocsp_bytes_max=4)),
        (("request", "signature"), TransportLimits(signature_bytes_max=3)),
        (("request", "result", "chain", "signature"), TransportLimits(chain_bytes_max=3)),
        (("request", "fault"), TransportLimits(fault_bytes_max=100)),
    ],
)
def test_every_part_has_its_limit(names: tuple[str, ...], limits: TransportLimits) -> None:
    with pytest.raises(PartOversizedError) as caught:
        read(message(*names), limits=limits)
    assert caught.value.kind == "peer.oversized"


def test_only_so_many_ocsp_parts_and_only_der_are_taken() -> None:
    assert len(sealed(message(*["ocsp"] * 8, "request", "signature")).head.ocsp) == 8
    with pytest.raises(UnexpectedPartError):
        read(message(*["ocsp"] * 9, "request", "signature"))
    for bad in (b"", b"0", b"hello world", DER + b"\n", DER[:-1], b"\x30\x80", b"\x30\x89" + b"\1" * 9):
        with pytest.raises(OcspPartError):
            read(part_begin(B, b"application/ocsp-response", first=True) + bad + closing(B))
    long = b"\x30\x82\x01\x00" + bytes(256)
    assert read(part_begin(B, b"application/ocsp-response", first=True) + long + part_begin(B, b"text/xml") + FAULT + closing(B))[1][
        0
    ] == OcspPart(long)


@pytest.mark.case("T07")
@pytest.mark.parametrize(
    "xml",
    [b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + FAULT, b"<not closed", b"", b"<x/>", ENVELOPE.replace(b"e:Body", b"e:Other"), b"\xff\xfe<\0"],
)
def test_xml_that_is_no_envelope_never_passes_as_a_fault_or_head(xml: bytes) -> None:
    text_xml = part_begin(B, b"text/xml", first=True) + xml + part_begin(B, b"signature/bdoc-1.0/ts") + b"<s/>" + closing(B)

    with pytest.raises(PeerProtocolError):
        read(text_xml)
    with pytest.raises(UnexpectedPartError):
        read(message("request")[: -len(closing(B))] + part_begin(B, b"text/xml") + xml + closing(B))


@given(st.lists(st.sampled_from(list(PIECES)) | st.binary(max_size=20), max_size=6), st.integers(1, 200))
def test_arbitrary_parts_give_a_message_or_one_of_our_errors(names: list[str | bytes], size: int) -> None:
    pieces = [PIECES[name] if isinstance(name, str) else (b"text/xml", name) for name in names]
    data = b"".join(part_begin(B, kind, first=at == 0) + body for at, (kind, body) in enumerate(pieces)) + closing(B)

    outcomes = set()
    for step in (size, 1 << 20):
        try:
            outcomes.add(repr(read(data, step)[0]))
        except PeerProtocolError as error:
            outcomes.add(error.kind)
    assert len(outcomes) == 1


@given(
    st.integers(0, 1000),
    st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"--", b"\r\n--" + B, b"\n--" + B, b"\r\n--" + B + b"--\r\n"]),
    st.integers(0, 3),
    st.integers(1, 60),
)
def test_a_changed_message_reads_alike_in_one_piece_and_in_many(at: int, inserted: bytes, removed: int, size: int) -> None:
    """What comes whole is cut at once (`MultipartReader.whole`): never into something else."""
    data = message("ocsp", "request", "body", "result", "chain", "signature")
    at %= len(data) + 1
    changed = data[:at] + inserted + data[at + removed :]

    outcomes = set()
    for step in (size, 1 << 20):
        try:
            outcomes.add(repr(read(changed, step)[0]))
        except PeerProtocolError:
            outcomes.add("refused")
    assert len(outcomes) == 1


def test_the_envelope_of_a_request_has_the_names_and_values_of_the_protocol() -> None:
    headers = request_headers(B, "11111111-2222-3333-4444-555555555555", b"application/json")

    assert headers == [
        (b"Content-Type", b"multipart/mixed; charset=UTF-8; boundary=" + B),
        (b"x-hash-algorithm", b"SHA-512"),
        (b"x-proxy-version", b"7.8.0"),
        (b"x-road-request-id", b"11111111-2222-3333-4444-555555555555"),
        (b"x-road-message-type", b"REST"),
        (b"x-original-content-type", b"application/json"),
    ]
    found = check_request(b"POST", [(name.upper(), value) for name, value in headers])
    assert (found.boundary, found.rest, found.proxy_version) == (B, True, "7.8.0")
    assert not check_request(b"POST", request_headers(B, "1", rest=False)).rest


def test_the_envelope_of_an_answer_spells_its_names_in_lower_case() -> None:
    assert response_headers(B)[1] == (b"x-hash-algorithm", b"SHA-512")
    assert response_headers(B, b"text/xml")[2] == (b"x-original-content-type", b"text/xml")
    assert check_response(200, response_headers(B)).boundary == B
    assert check_response(200, fault_headers()).boundary is None
    assert fault_headers()[1] == (b"SOAPAction", b"")


def test_an_envelope_that_is_not_the_protocols_is_refused() -> None:
    good = request_headers(B, "1")

    def changed(name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
        return [header for header in good if header[0].lower() != name] + ([] if value is None else [(name, value)])

    with pytest.raises(EnvelopeMethodError):
        check_request(b"GET", good)
    for value in (None, b"text/xml", b"multipart/mixed", b"multipart/mixed; boundary=\xff"):
        with pytest.raises(EnvelopeTypeError):
            check_request(b"POST", changed(b"content-type", value))
    for name, bad in (
        (b"x-hash-algorithm", None),
        (b"x-hash-algorithm", b"SHA-256"),
        (b"x-road-message-type", b"rest"),
        (b"x-road-request-id", b"a b"),
    ):
        with pytest.raises(EnvelopeError):
            check_request(b"POST", changed(name, bad))
    with pytest.raises(EnvelopeError):
        check_request(b"POST", [*good, (b"X-Hash-Algorithm", b"SHA-1")])
    assert check_request(b"POST", [*good, (b"X-Hash-Algorithm", b"SHA-512")]).rest
    with pytest.raises(HttpStatusError):
        check_response(404, response_headers(B))
    with pytest.raises(EnvelopeError):
        check_response(200, response_headers(B)[:1])


@pytest.mark.parametrize(
    ("version", "accepted"), [("7.6.0", True), ("7.10.0", True), ("8.0.0-beta", True), ("7.5.9", False), ("", False), ("7.6", False)]
)
def test_a_minimum_version_compares_numbers(version: str, *, accepted: bool) -> None:
    if accepted:
        check_version(version, "7.6.0")
    else:
        with pytest.raises(ProxyVersionError):
            check_version(version, "7.6.0")
