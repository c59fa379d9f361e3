"""The client's half: who may ask and how it proves itself, where the message goes, and which answers are never delivered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from appliance.access.rights import HTTP, HTTPS, MUTUAL_TLS, Client
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.client_side import Arrival
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Sealed, SystemAnswer
from appliance.messagelog.wire import REQUEST, RESPONSE
from appliance.model.identifiers import ClientId, ServiceId
from appliance.net import message_protocol
from appliance.supervision.wire import LocalConfiguration
from tests.exchange.institutions import Institution
from tests.exchange.two_boxes import TwoBoxes, with_body, with_signature
from tests.fakes.exchange import ReadyBody, body_of
from tests.seal.workshop import HOUR_US, SECOND_US

KNOWN, OTHER = b"the registered certificate", b"another certificate"
MODES = [
    (HTTP, Arrival(False, None), None),
    (HTTP, Arrival(True, None), None),
    (HTTPS, Arrival(False, None), "access.authentication"),
    (HTTPS, Arrival(True, None), None),
    (HTTPS, Arrival(True, OTHER), None),
    (MUTUAL_TLS, Arrival(False, None), "access.authentication"),
    (MUTUAL_TLS, Arrival(False, KNOWN), "access.authentication"),
    (MUTUAL_TLS, Arrival(True, None), "access.authentication"),
    (MUTUAL_TLS, Arrival(True, OTHER), "access.authentication"),
    (MUTUAL_TLS, Arrival(True, KNOWN), None),
]


def with_clients(boxes: TwoBoxes, *clients: Client) -> None:
    boxes.local = LocalView(LocalConfiguration(1, list(clients), [], []), {})


@pytest.mark.parametrize(("mode", "arrival", "refusal"), MODES)
def test_a_client_proves_itself_as_its_mode_asks(boxes: TwoBoxes, mode: str, arrival: Arrival, refusal: str | None) -> None:
    with_clients(boxes, Client(str(boxes.network.asker.client), mode, (KNOWN,)))
    body = ReadyBody(b"a question")

    if refusal is None:
        assert boxes.ask(body=body, arrival=arrival).response.status == 200
    else:
        with pytest.raises(XacbeError) as refused:
            boxes.ask(body=body, arrival=arrival)
        assert (refused.value.kind, boxes.witness, body.asked) == (refusal, [], False)


def test_a_mutual_tls_client_without_a_registered_certificate_is_never_served(boxes: TwoBoxes) -> None:
    with_clients(boxes, Client(str(boxes.network.asker.client), MUTUAL_TLS))

    with pytest.raises(XacbeError, match="registered certificate"):
        boxes.ask(arrival=Arrival(True, KNOWN))
    assert boxes.witness == []


@dataclass(frozen=True)
class Early:
    """A request that ends before its body is asked for: what is wrong, and the kind of the refusal."""

    name: str
    kind: str
    lay_out: Callable[[TwoBoxes], message_protocol.RestRequest]


def _unknown_client(boxes: TwoBoxes) -> message_protocol.RestRequest:
    return boxes.request(client=ClientId("QROO-TEST", "GOV", "1001", "nobody"))


def _member_instead_of_subsystem(boxes: TwoBoxes) -> message_protocol.RestRequest:
    return boxes.request(client=boxes.network.asker.member)


def _client_of_another_box(boxes: TwoBoxes) -> message_protocol.RestRequest:
    with_clients(boxes, Client(str(boxes.network.third.client), HTTP))
    return boxes.request(client=boxes.network.third.client)


def _suspended_client(boxes: TwoBoxes) -> message_protocol.RestRequest:
    boxes.trust.parameters = boxes.network.shared(boxes.network.asker.registered(suspended=True), boxes.network.provider.registered())
    return boxes.request()


def _suspended_provider(boxes: TwoBoxes) -> message_protocol.RestRequest:
    boxes.trust.parameters = boxes.network.shared(boxes.network.asker.registered(), boxes.network.provider.registered(suspended=True))
    return boxes.request()


def _unknown_provider(boxes: TwoBoxes) -> message_protocol.RestRequest:
    return boxes.request(service=ServiceId(boxes.network.outsider.client, "anything"))


def _wrong_server(boxes: TwoBoxes) -> message_protocol.RestRequest:
    return boxes.request(x_road_security_server=boxes.network.third.server.encoded())


def _maintenance(boxes: TwoBoxes) -> message_protocol.RestRequest:
    boxes.trust.parameters = boxes.network.shared(boxes.network.asker.registered(), boxes.network.provider.registered(maintenance=""))
    return boxes.request()


def _expired_configuration(boxes: TwoBoxes) -> message_protocol.RestRequest:
    boxes.clock.us = boxes.trust.expires_us
    return boxes.request()


EARLY = [
    Early("a subsystem that the box does not know", "access.client_unknown", _unknown_client),
    Early("the member instead of its subsystem", "access.client_unknown", _member_instead_of_subsystem),
    Early("a client that is registered on another box", "access.client_unknown", _client_of_another_box),
    Early("a client that is not in the configuration any more", "access.client_unknown", _suspended_client),
    Early("a provider that is not in the configuration any more", "exchange.unknown_member", _suspended_provider),
    Early("a provider that never was", "exchange.unknown_member", _unknown_provider),
    Early("a server that does not serve the provider", "exchange.invalid_security_server", _wrong_server),
    Early("a provider in maintenance", "exchange.maintenance", _maintenance),
    Early("an expired configuration", "configuration.expired", _expired_configuration),
]


@pytest.mark.rule("II.2.II", "II.2.XIV")
@pytest.mark.parametrize("case", EARLY, ids=lambda case: case.name)
def test_what_cannot_go_out_is_refused_before_its_body_is_read(boxes: TwoBoxes, case: Early) -> None:
    request, body = case.lay_out(boxes), ReadyBody(b"a question")

    with pytest.raises(XacbeError) as refused:
        boxes.ask(request, body)

    assert (refused.value.kind, body.asked, boxes.witness) == (case.kind, False, [])


def test_the_last_instant_of_a_configuration_still_counts(boxes: TwoBoxes) -> None:
    boxes.clock.us = boxes.trust.expires_us - 1

    assert boxes.ask().response.status == 200


def test_the_server_that_the_client_names_is_the_one_that_is_asked(boxes: TwoBoxes) -> None:
    network = boxes.network
    second = replace(network.provider.registered(), id=replace(network.provider.server, code="SS2"), auth_hashes=frozenset())
    boxes.trust.parameters = network.shared(network.asker.registered(), network.provider.registered(), second)

    boxes.ask(boxes.request(x_road_security_server=network.provider.server.encoded()))
    boxes.ask()

    assert [[server.id.code for server in asked] for asked in boxes.peers.asked] == [["SS1"], ["SS1", "SS2"]]


def test_servers_in_maintenance_are_left_out_while_another_serves(boxes: TwoBoxes) -> None:
    network = boxes.network
    second = replace(network.provider.registered(maintenance="later"), id=replace(network.provider.server, code="SS2"))
    boxes.trust.parameters = network.shared(network.asker.registered(), second, network.provider.registered())

    boxes.ask()

    assert [server.id.code for server in boxes.peers.asked[0]] == ["SS1"]


def _token_away(boxes: TwoBoxes) -> None:
    boxes.sealer.away = "token.absent"


def _log_full(boxes: TwoBoxes) -> None:
    boxes.log.fill()


def _recorder_away(boxes: TwoBoxes) -> None:
    boxes.log.kill()


@pytest.mark.rule("I.4.XV")
@pytest.mark.parametrize(("break_it", "kind"), [(_token_away, "token.absent"), (_log_full, "log.full"), (_recorder_away, "process.away")])
def test_what_cannot_be_sealed_and_recorded_does_not_leave(boxes: TwoBoxes, break_it: Callable[[TwoBoxes], None], kind: str) -> None:
    break_it(boxes)

    with pytest.raises(UnavailableError) as refused:
        boxes.ask()

    assert refused.value.kind == kind
    assert "message leaves" not in boxes.witness
    assert boxes.saw_nothing()


def test_a_request_whose_peer_is_away_stays_in_the_log(boxes: TwoBoxes) -> None:
    boxes.peers.fails = UnavailableError("nobody answers", kind="peer.unreachable")

    with pytest.raises(UnavailableError, match="nobody answers"):
        boxes.ask()

    assert [one.record.direction for one in boxes.log.kept] == [REQUEST]


def test_a_fault_of_the_peer_is_passed_on_and_nothing_is_recorded_as_an_answer(boxes: TwoBoxes) -> None:
    with pytest.raises(XacbeError, match=r"server\.serverproxy\.access_denied") as refused:
        boxes.ask(boxes.request(service=boxes.network.closed_service))

    assert refused.value.kind == "peer.fault"
    assert boxes.log.messages(RESPONSE) == []
    assert boxes.saw_nothing()


# -- answers that are never delivered


@dataclass(frozen=True)
class BadAnswer:
    """What the other box (or who sits in it) makes of the answer, and the kind of its refusal."""

    name: str
    kind: str
    change: Callable[[TwoBoxes, Sealed], Sealed]


def _sealed_by(boxes: TwoBoxes, answer: Sealed, institution: Institution) -> Sealed:
    """The same answer under a new seal of that institution, with nothing else wrong."""
    parts = [("/message.xml", message_protocol.digest_of(answer.head))]
    parts += [] if answer.body is None else [("/attachment1", answer.body.digest)]
    (seal,) = boxes.key(institution).seal([parts], boxes.clock.us)
    return replace(answer, seal=seal)


def _with_header(boxes: TwoBoxes, answer: Sealed, name: bytes, value: bytes) -> Sealed:
    """The provider itself seals an answer in which one header says something else."""
    lines = [name + b":" + value if line.startswith(name + b":") else line for line in answer.head.split(b"\r\n")]
    changed = replace(answer, head=b"\r\n".join(lines))
    assert changed.head != answer.head
    return _sealed_by(boxes, changed, boxes.network.provider)


def _revoked(boxes: TwoBoxes, answer: Sealed) -> Sealed:
    certificate = boxes.network.provider.seal
    now_us = boxes.clock.us
    (seal,) = boxes.key(boxes.network.provider).seal(
        [[("/message.xml", message_protocol.digest_of(answer.head)), ("/attachment1", body_of(b"an answer").digest)]],
        now_us,
        [boxes.network.authority.confirmation(certificate, now_us, revoked_us=now_us - HOUR_US)],
    )
    return replace(answer, seal=seal)


HASH_OF_NOTHING = b"z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
BAD_ANSWERS = [
    BadAnswer("body changed", "seal.chain_result", lambda _, answer: with_body(answer, b"a lie")),
    BadAnswer("body dropped", "seal.chain_unknown_reference", lambda _, answer: with_body(answer, None)),
    BadAnswer("status changed", "seal.chain_result", lambda _, answer: replace(answer, head=b"500" + answer.head[3:])),
    BadAnswer("sealed by a third member", "seal.wrong_signer", lambda boxes, answer: _sealed_by(boxes, answer, boxes.network.third)),
    BadAnswer("sealed by the asker itself", "seal.wrong_signer", lambda boxes, answer: _sealed_by(boxes, answer, boxes.network.asker)),
    BadAnswer("the signing certificate is revoked", "ocsp.revoked", _revoked),
    BadAnswer("the signature is not XML", "seal.malformed", lambda _, answer: with_signature(answer, b"<")),
    BadAnswer(
        "another request's hash",
        "rest.inconsistent_response",
        lambda boxes, answer: _with_header(boxes, answer, b"x-road-request-hash", HASH_OF_NOTHING),
    ),
    BadAnswer("another query", "rest.inconsistent_response", lambda boxes, answer: _with_header(boxes, answer, b"x-road-id", b"Q-2")),
    BadAnswer(
        "another request id",
        "rest.inconsistent_response",
        lambda boxes, answer: _with_header(boxes, answer, b"x-road-request-id", b"other"),
    ),
    BadAnswer(
        "another client",
        "rest.inconsistent_response",
        lambda boxes, answer: _with_header(boxes, answer, b"x-road-client", boxes.network.third.client.encoded().encode()),
    ),
    BadAnswer(
        "another service",
        "rest.inconsistent_response",
        lambda boxes, answer: _with_header(boxes, answer, b"x-road-service", boxes.network.closed_service.encoded().encode()),
    ),
    BadAnswer(
        "a request instead of an answer",
        "exchange.inconsistent_response",
        lambda boxes, _: boxes.message(boxes.request(), by=boxes.network.provider),
    ),
]


@pytest.mark.rule("IV.3.I", "IV.3.VI")
@pytest.mark.case("T16")
@pytest.mark.parametrize("case", BAD_ANSWERS, ids=lambda case: case.name)
def test_a_bad_answer_is_neither_recorded_nor_delivered(boxes: TwoBoxes, case: BadAnswer) -> None:
    boxes.peers.on_the_way_back = lambda answer: case.change(boxes, answer)

    with pytest.raises(XacbeError) as refused:
        boxes.ask()

    assert refused.value.kind == case.kind
    assert boxes.log.messages(RESPONSE) == []


@pytest.mark.rule("II.2.II")
def test_an_answer_that_comes_after_the_end_of_the_configuration_is_not_believed(boxes: TwoBoxes) -> None:
    def expire(answer: Sealed) -> Sealed:
        boxes.trust.expires_us = boxes.clock.us
        return answer

    boxes.peers.on_the_way_back = expire

    with pytest.raises(XacbeError) as refused:
        boxes.ask()

    assert refused.value.kind == "configuration.expired"
    assert boxes.log.messages(RESPONSE) == []


@pytest.mark.case("T16")
@pytest.mark.parametrize("body", [b"a question", b"another question"], ids=["of the same words", "of other words"])
def test_the_answer_to_another_request_of_the_same_client_is_not_delivered(boxes: TwoBoxes, body: bytes) -> None:
    other = boxes.provide(boxes.message(boxes.request(), body))
    boxes.peers.on_the_way_back = lambda _: other

    with pytest.raises(XacbeError) as refused:
        boxes.ask()

    assert refused.value.kind == "rest.inconsistent_response"
    assert boxes.log.messages(RESPONSE) == []


@pytest.mark.case("T13")
def test_an_old_answer_is_not_accepted_for_the_same_request_twice(boxes: TwoBoxes) -> None:
    answers: list[Sealed] = []

    def keep(answer: Sealed) -> Sealed:
        answers.append(answer)
        return answer

    boxes.peers.on_the_way_back = keep
    request = boxes.request()
    boxes.ask(request)
    boxes.peers.on_the_way_back = lambda _: answers[0]
    boxes.clock.us += SECOND_US  # a new seal over the same head: the peer's guard lets it pass

    with pytest.raises(XacbeError) as refused:
        boxes.ask(request)

    assert refused.value.kind == "message.replayed"
    assert len(boxes.log.messages(RESPONSE)) == 1


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
@pytest.mark.parametrize(
    ("offset_us", "accuracy_us", "accepted"),
    [(8 * HOUR_US, 0, True), (8 * HOUR_US + 1, 0, False), (8 * HOUR_US, 1, False), (8 * HOUR_US - 1, 1, True), (-8 * HOUR_US, 0, True)],
)
def test_an_answer_s_two_proofs_lie_at_most_eight_hours_apart(boxes: TwoBoxes, offset_us: int, accuracy_us: int, accepted: bool) -> None:
    boxes.log.stamp_at_us, boxes.log.accuracy_us = boxes.clock.us + offset_us, accuracy_us

    if accepted:
        assert boxes.ask().response.status == 200
    else:
        with pytest.raises(XacbeError) as refused:
            boxes.ask()
        assert refused.value.kind == "seal.evidence_gap"
        assert "client gets answer" not in boxes.witness


@pytest.mark.rule("IV.3.VI")
@pytest.mark.case("T39")
def test_without_a_stamp_an_answer_is_recorded_and_not_delivered(boxes: TwoBoxes) -> None:
    boxes.log.tsa_silent = True

    with pytest.raises(UnavailableError) as refused:
        boxes.ask()

    assert refused.value.kind == "tsa.unreachable"
    assert boxes.witness[-1] == "asker logs response, not stamped"


@pytest.mark.rule("IV.3.VI")
@pytest.mark.case("T39")
def test_within_a_signed_grace_an_answer_is_delivered_provisionally(boxes: TwoBoxes) -> None:
    boxes.log.tsa_silent, boxes.log.grace_us = True, HOUR_US

    boxes.ask()

    assert boxes.witness[-2:] == ["asker logs response, provisional", "client gets answer"]


@pytest.mark.parametrize(
    "answer",
    [
        SystemAnswer(204, b"No Content", [], None),
        SystemAnswer(404, b"Not Found", [(b"X-Road-Id", b"forged"), (b"x-road-client", b"forged")], body_of(b"nothing here")),
        SystemAnswer(200, "bien hecho é".encode("latin-1"), [(b"X-Text", b"\xe9")], body_of(b"")),
        SystemAnswer(200, b"OK", [(b"x-road-service", b"QROO-TEST/GOV/3003/rogue/other")], None),
    ],
    ids=["no content", "forged headers", "latin-1", "a service that names another"],
)
def test_whatever_a_system_answers_arrives_as_the_answer_to_this_request(boxes: TwoBoxes, answer: SystemAnswer) -> None:
    boxes.system.answer = answer

    delivery = boxes.ask(boxes.request("GET"), body=None)

    assert (delivery.response.status, delivery.body) == (answer.status, answer.body)
    assert [boxes.verified(one).verdict for one in boxes.log.kept] == ["valid"] * 2
