"""The REST message protocol: heads as X-Road signs them, headers that travel and that do not, and what is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.model.identifiers import ClientId, IdentifierError, ServerId, ServiceId
from appliance.net.message_protocol import (
    HEAD_BYTES_MAX,
    METHODS,
    NEVER_TRAVEL,
    ClientInvalidError,
    HeaderConflictError,
    HeaderForbiddenError,
    HeadMalformedError,
    MethodUnknownError,
    ResponseInconsistentError,
    RestRequest,
    RestResponse,
    TargetMalformedError,
    check_response,
    digest_of,
    forwards_body,
    headers_for_system,
    parse_head,
    request_from_system,
    request_hash,
    response_head,
    service_url,
)
from appliance.net.multipart import PartOversizedError

UUID = "11111111-2222-3333-4444-555555555555"
GENERATED = "DEV-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
TARGET = b"/r1/DEV/COM/1234/TestService/mock1/pets?x=1"
CLIENT = (b"X-Road-Client", b"DEV/COM/4321/TestClient")
EXAMPLE = (
    b"POST\r\n/r1/DEV/COM/1234/TestService/mock1/pets?x=1\r\nContent-Type:application/json\r\nX-Road-Client:DEV/COM/4321/TestClient\r\n"
    b"x-road-request-id:11111111-2222-3333-4444-555555555555\r\nx-road-id:DEV-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\r\n"
)
"""The example of the sheet, 3.4."""
BODY = b'{"a":1}'


def asked(*headers: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = TARGET) -> RestRequest:
    return request_from_system(method, target, [CLIENT, *headers], request_id=UUID, generated_id=GENERATED)


def parsed_request(head: bytes) -> RestRequest:
    found = parse_head(head)
    assert isinstance(found, RestRequest)
    return found


def answered(*headers: tuple[bytes, bytes], request: RestRequest | None = None, status: int = 200) -> RestResponse:
    request = request or asked()
    found = parse_head(response_head(status, b"OK", headers, request, request_hash(request.digest, None)))
    assert isinstance(found, RestResponse)
    return found


def test_a_request_becomes_the_head_of_the_protocols_example() -> None:
    headers = [(b"Host", b"box"), (b"Content-Type", b"application/json"), CLIENT, (b"Content-Length", b"7"), (b"User-Agent", b"curl")]

    request = request_from_system(b"POST", TARGET, headers, request_id=UUID, generated_id=GENERATED)

    assert request.head == EXAMPLE
    assert len(EXAMPLE) == 229
    assert request == parsed_request(EXAMPLE)
    assert request.service == ServiceId(ClientId("DEV", "COM", "1234", "TestService"), "mock1")
    assert request.client == ClientId("DEV", "COM", "4321", "TestClient")
    assert (request.method, request.service_path, request.query, request.service_target) == ("POST", "/pets", "x=1", "/pets?x=1")
    assert (request.query_id, request.request_id) == (GENERATED, UUID)


def test_digests_and_request_hashes_are_those_of_the_sheet() -> None:
    head, body = digest_of(EXAMPLE), digest_of(BODY)

    assert head.hex().startswith("99ea2129d1161eca")
    assert body.hex().startswith("efb7a8298f905ae7")
    assert base64.b64encode(request_hash(head, None)) == (
        b"meohKdEWHsrrRrJhlfbRdqxVcQDa9VpBh7kVgAkzaz5zem2DcMUCUf/xM+XR1mRAS6bCLSRIpm1Hqq7eRtFjdA=="
    )
    assert base64.b64encode(request_hash(head, body)) == (
        b"G+ErWNVa+gBURSEIbeLRFwgt6Wx2juflOgUp1coSLnTtFqPRvP1jXtMSFwLlUCVd7QD1B5x1VoQYSVqF3fmgtQ=="
    )
    assert request_hash(head, digest_of(b"")) != request_hash(head, None)


def test_headers_that_never_travel_and_those_that_only_we_set_are_dropped_from_a_request() -> None:
    never = [(name.title(), b"x") for name in sorted(NEVER_TRAVEL)]

    request = asked(
        *never,
        (b"X-ROAD-REQUEST-ID", b"theirs"),
        (b"x-road-Request-Hash", b"theirs"),
        (b"Accept", b"*/*"),
        (b"X-Own", b"1"),
        (b"X-Own", b"2"),
    )

    assert len(NEVER_TRAVEL) == 13
    assert request.headers == (
        CLIENT,
        (b"Accept", b"*/*"),
        (b"X-Own", b"1"),
        (b"X-Own", b"2"),
        (b"x-road-request-id", UUID.encode()),
        (b"x-road-id", GENERATED.encode()),
    )


def test_an_id_that_the_system_gave_is_kept_where_it_stands() -> None:
    request = asked((b"X-Road-Id", b"mine"), (b"X-Road-UserId", b"MX:1"), (b"X-Road-Issue", b"expediente 7"))

    assert request.query_id == "mine"
    assert request.headers[-1] == (b"x-road-request-id", UUID.encode())
    assert (request.user_id, request.issue) == ("MX:1", "expediente 7")


def test_the_other_parties_of_a_request_are_read() -> None:
    request = asked((b"X-Road-Security-Server", b"DEV/COM/1234/box%2F1"), (b"X-Road-Represented-Party", b"COM/M%C3%A9rida"))

    assert request.security_server == ServerId(ClientId("DEV", "COM", "1234"), "box/1")
    assert request.represented_party == "COM/Mérida"
    assert asked((b"X-Road-Represented-Party", b"MX123")).represented_party == "MX123"
    for name, value in (
        (b"X-Road-Security-Server", b"DEV/COM/1234"),
        (b"X-Road-Represented-Party", b"a/b/c"),
        (b"X-Road-Represented-Party", b"a/"),
    ):
        with pytest.raises(IdentifierError):
            asked((name, value))


@pytest.mark.parametrize("value", [None, b"", b"DEV/COM", b"DEV/COM/1/2/3", b"DEV/COM/4321/Test Client", b"DEV//4321", b"DEV/COM/%zz"])
def test_a_request_without_a_client_is_refused(value: bytes | None) -> None:
    headers = [] if value is None else [(b"X-Road-Client", value)]

    with pytest.raises(ClientInvalidError):
        request_from_system(b"GET", TARGET, headers, request_id=UUID, generated_id=GENERATED)


@pytest.mark.case("T04")
@pytest.mark.parametrize(
    "name", [b"x-road-client", b"X-Road-Id", b"x-road-security-server", b"X-Road-Represented-Party", b"x-road-userid", b"X-ROAD-ISSUE"]
)
def test_equal_repetitions_are_kept_and_conflicting_ones_refused(name: bytes) -> None:
    value = {b"x-road-client": CLIENT[1], b"x-road-security-server": b"DEV/COM/1/s"}.get(name.lower(), b"same")

    twice = asked((name, value), (name.upper(), value))

    assert [header for header in twice.headers if header[0].lower() == name.lower()][-1][1] == value
    with pytest.raises(HeaderConflictError):
        asked((name, value), (name, value + b"x"))
    with pytest.raises(HeaderConflictError):
        parse_head(EXAMPLE + name + b":" + value + b"\r\n" + name + b":" + value + b"x\r\n")


def test_raw_path_and_query_stay_as_they_came() -> None:
    request = asked(target=b"/r1/DEV/COM/12%2F34/Test%20Service/mock1/a%2Fb//c?x=%20&y=[1]&z=?")

    assert request.target == "/r1/DEV/COM/12%2F34/Test%20Service/mock1/a%2Fb//c?x=%20&y=[1]&z=?"
    assert request.service == ServiceId(ClientId("DEV", "COM", "12/34", "Test Service"), "mock1")
    assert request.service_target == "/a%2Fb//c?x=%20&y=[1]&z=?"
    assert asked(target=b"/r1/DEV/COM/1/2/s").service_target == ""
    assert asked(target=b"/r1/DEV/COM/1/2/s/").service_target == "/"
    assert asked(target=b"/r1/DEV/COM/1/2/s?").service_target == "?"


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"r1/DEV/COM/1/2/s",
        b"/r1/DEV/COM/1/2",
        b"/r2/DEV/COM/1/2/s",
        b"/rx/DEV/COM/1/2/s",
        b"/r1x/DEV/COM/1/2/s",
        b"/r1/DEV/COM/1/2/s p",
        b"/r1/DEV/COM/1/2/s/%2",
        b"/r1/DEV/COM/1/2/s/\xc3\xb1",
        b"/r1/DEV/COM/1/2/s#f",
        b"/r1/DEV/COM/1/2/s?a\x80b",
        b"/r1/DEV/COM/1/2/s?a#b",
        b"/r1/DEV/COM/1/2/s\r\nX:y",
        b"http://x/r1/DEV/COM/1/2/s",
    ],
)
def test_a_target_that_names_no_service_is_refused(target: bytes) -> None:
    with pytest.raises(TargetMalformedError):
        asked(target=target)
    with pytest.raises(XacbeError):
        parse_head(EXAMPLE.replace(TARGET, target.replace(b"\r\n", b" ")))


def test_a_service_with_an_empty_part_is_refused() -> None:
    with pytest.raises(IdentifierError):
        asked(target=b"/r1/DEV/COM/1//s")


def test_only_the_methods_of_the_protocol_travel() -> None:
    assert {asked(method=method.encode()).method for method in METHODS} == METHODS
    for method in (b"CONNECT", b"get", b"", b"PROPFIND"):
        with pytest.raises(MethodUnknownError):
            asked(method=method)
    assert [method for method in sorted(METHODS) if forwards_body(method)] == ["PATCH", "POST", "PUT"]


def test_values_that_are_not_utf_8_are_taken_as_latin_1() -> None:
    request = asked((b"X-Road-UserId", "Muñoz".encode("latin-1")), (b"X-Utf", "Muñoz".encode()))

    assert request.user_id == "Muñoz"
    assert dict(request.headers)[b"X-Utf"] == "Muñoz".encode()
    request.head.decode()


def test_a_header_can_never_become_a_second_line_of_the_head() -> None:
    for name, value in ((b"X-Own", b"1\r\nX-Road-Client:EVIL/A/B"), (b"X Own", b"1"), (b"X-Own", b"\0"), (b"X:Own", b"1"), (b"", b"1")):
        with pytest.raises(HeadMalformedError):
            asked((name, value))
        with pytest.raises(HeadMalformedError):
            response_head(200, b"OK", [(name, value)], asked(), b"hash")
    with pytest.raises(HeadMalformedError):
        response_head(200, b"OK\r\nX:y", [], asked(), b"hash")


@pytest.mark.case("T04")
@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"", HeadMalformedError),
        (b"GET", HeadMalformedError),
        (EXAMPLE + b"\r\n", HeadMalformedError),
        (EXAMPLE.replace(b"x-road-id", b"\r\nx-road-id"), HeadMalformedError),
        (EXAMPLE + b"no colon\r\n", HeadMalformedError),
        (EXAMPLE + b":no name\r\n", HeadMalformedError),
        (EXAMPLE + b"a b:c\r\n", HeadMalformedError),
        (EXAMPLE + b"a:\xff\r\n", HeadMalformedError),
        (EXAMPLE + b"a:\0\r\n", HeadMalformedError),
        (EXAMPLE + b"Host:x\r\n", HeaderForbiddenError),
        (EXAMPLE + b"Content-Length:7\r\n", HeaderForbiddenError),
        (EXAMPLE + b"transfer-encoding:chunked\r\n", HeaderForbiddenError),
        (EXAMPLE.replace(b"X-Road-Client:", b"X-Road-Client: "), ClientInvalidError),
        (EXAMPLE.replace(b"X-Road-Client", b"X-Other"), ClientInvalidError),
        (EXAMPLE.replace(b"x-road-id:", b"x-other:"), HeadMalformedError),
        (EXAMPLE.replace(GENERATED.encode(), b""), HeadMalformedError),
        (EXAMPLE.replace(GENERATED.encode(), b"x" * 256), HeadMalformedError),
        (EXAMPLE.replace(b"POST", b"post"), MethodUnknownError),
        (EXAMPLE + b"a:" + b"x" * HEAD_BYTES_MAX, PartOversizedError),
    ],
)
def test_a_received_head_is_read_strictly(head: bytes, error: type[XacbeError]) -> None:
    with pytest.raises(error):
        parse_head(head)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_any_line_end_is_read_and_the_bytes_are_kept(end: bytes) -> None:
    head = EXAMPLE.replace(b"\r\n", end)

    assert parsed_request(head).client == ClientId("DEV", "COM", "4321", "TestClient")
    assert parsed_request(head).head == head
    assert parsed_request(head.removesuffix(end)).request_id == UUID


def test_the_request_id_is_read_only_in_lower_case() -> None:
    assert parsed_request(EXAMPLE.replace(b"x-road-request-id", b"X-Road-Request-Id")).request_id == ""


def test_an_answer_carries_our_five_headers_last_and_in_order() -> None:
    request = asked((b"X-Road-Id", b"q"))
    theirs = [
        (b"Content-Type", b"application/json"),
        (b"Connection", b"close"),
        (b"Server", b"x"),
        (b"x-road-id", b"forged"),
        (b"X-Road-Client", b"forged"),
        (b"x-road-request-hash", b"forged"),
        (b"X-Road-Request-Id", b"forged"),
        (b"X-Road-Service", b"DEV/COM/1/2/other"),
    ]

    head = response_head(404, b"Not Found", theirs, request, b"\1\2\3")

    assert head == (
        b"404\r\nNot Found\r\nContent-Type:application/json\r\nX-Road-Service:DEV/COM/1/2/other\r\n"
        b"x-road-id:q\r\nx-road-client:DEV/COM/4321/TestClient\r\nx-road-service:DEV/COM/1234/TestService/mock1\r\n"
        b"x-road-request-id:11111111-2222-3333-4444-555555555555\r\nx-road-request-hash:AQID\r\n"
    )
    response = parse_head(head)
    assert isinstance(response, RestResponse)
    assert (response.status, response.reason, response.request_hash) == (404, b"Not Found", b"\1\2\3")
    assert response.service == request.service


def test_identifiers_in_an_answer_are_percent_encoded_again() -> None:
    request = request_from_system(
        b"GET", b"/r1/DEV/COM/12%2f34/S%c3%b3lo/a+b", [(b"X-Road-Client", b"DEV/COM/1/%C3%B1")], request_id=UUID, generated_id=GENERATED
    )

    head = response_head(200, b"", [], request, b"h")

    assert b"x-road-client:DEV/COM/1/%C3%B1\r\nx-road-service:DEV/COM/12%2F34/S%C3%B3lo/a+b\r\n" in head
    response = parse_head(head)
    assert isinstance(response, RestResponse)
    assert response.reason == b""
    check_response(response, request, b"h")


def test_an_answer_of_a_request_without_a_request_id_takes_the_envelopes() -> None:
    request = parsed_request(EXAMPLE.replace(b"x-road-request-id", b"X-Road-Request-Id"))

    assert b"x-road-request-id:of-the-envelope\r\n" in response_head(200, b"OK", [], request, b"h", request_id="of-the-envelope")


@pytest.mark.parametrize("missing", [b"x-road-id", b"x-road-client", b"x-road-service", b"x-road-request-hash"])
def test_an_answer_without_one_of_its_headers_is_refused(missing: bytes) -> None:
    head = response_head(200, b"OK", [], asked(), b"hash")

    with pytest.raises(XacbeError):
        parse_head(head.replace(missing, b"x-other"))


def test_a_status_line_that_is_none_is_refused() -> None:
    head = response_head(200, b"OK", [], asked(), b"hash")
    for wrong in (b"20\r\n", b"2000\r\n", b"2x0\r\n", b"200 OK\r\n"):
        with pytest.raises(HeadMalformedError):
            parse_head(head.replace(b"200\r\n", wrong, 1))
    for status in (0, 99, 1000):
        with pytest.raises(HeadMalformedError):
            response_head(status, b"", [], asked(), b"hash")


@pytest.mark.case("T04")
def test_an_answer_must_be_the_answer_to_this_request() -> None:
    request = asked()
    expected = request_hash(request.digest, None)

    check_response(answered(request=request), request, expected)

    for other in (
        asked((b"X-Road-Id", b"another")),
        asked(target=b"/r1/DEV/COM/1234/TestService/mock2/pets?x=1"),
        request_from_system(b"GET", TARGET, [(b"X-Road-Client", b"DEV/COM/4321/Other")], request_id=UUID, generated_id=GENERATED),
        request_from_system(b"GET", TARGET, [CLIENT], request_id="another", generated_id=GENERATED),
    ):
        with pytest.raises(ResponseInconsistentError):
            check_response(answered(request=request), other, expected)
    with pytest.raises(ResponseInconsistentError):
        check_response(answered(request=request), request, request_hash(request.digest, digest_of(b"")))


def test_the_information_system_gets_every_header_and_one_date() -> None:
    response = answered((b"Date", b"old"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"date", b"new"))

    headers = headers_for_system(response)

    assert headers[:2] == [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]
    assert headers[-1] == (b"Date", b"new")
    assert [name for name, _ in headers].count(b"x-road-request-hash") == 1


def test_the_services_url_and_the_path_are_joined_with_one_slash() -> None:
    assert service_url("http://s/api", "/pets?x=1") == "http://s/api/pets?x=1"
    assert service_url("http://s/api/", "/pets") == "http://s/api/pets"
    assert service_url("http://s/api/", "?x=1") == "http://s/api/?x=1"
    assert service_url("http://s/api", "") == "http://s/api"


_PART = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.tuples(_PART, _PART, _PART, _PART, _PART), st.tuples(_PART, _PART, _PART))
def test_any_identifier_survives_the_way_there_and_back(service: tuple[str, str, str, str, str], client: tuple[str, str, str]) -> None:
    provider = ServiceId(ClientId(*service[:4]), service[4])
    asker = ClientId(*client)

    request = request_from_system(
        b"GET",
        f"/r1/{provider.encoded()}".encode(),
        [(b"X-Road-Client", asker.encoded().encode())],
        request_id=UUID,
        generated_id=GENERATED,
    )
    response = parse_head(response_head(200, b"OK", [], request, b"h"))

    assert (request.service, request.client) == (provider, asker)
    assert isinstance(response, RestResponse)
    check_response(response, request, b"h")


_LINE = st.sampled_from(
    [
        b"GET",
        b"200",
        b"",
        TARGET,
        b"x-road-id:1",
        b"X-Road-Client:A/B/C",
        b"x-road-request-hash:AA==",
        b"Host:x",
        b"x-road-service:A/B/C/D/E",
    ]
)


@given(st.lists(_LINE | st.binary(max_size=20), max_size=7), st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_arbitrary_heads_give_facts_or_one_of_our_errors(lines: list[bytes], end: bytes) -> None:
    try:
        found = parse_head(end.join(lines))
    except XacbeError:
        return
    assert found.head == end.join(lines)


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=4))
def test_whatever_a_system_sends_gives_a_head_that_a_peer_accepts_or_an_error(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    for verb, path in ((method, target), (b"GET", TARGET)):
        try:
            request = request_from_system(verb, path, [CLIENT, *headers], request_id=UUID, generated_id=GENERATED)
        except XacbeError:
            continue
        assert parsed_request(request.head) == request
