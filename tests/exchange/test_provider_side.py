"""The provider's half: what a peer sends reaches the information system only with a right, a seal, a record and a stamp."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from appliance.access.rights import Right
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import REQUEST, RESPONSE, Append, Appended, Seal
from appliance.model.identifiers import ClientId, ServiceId
from appliance.net.message_protocol import RestRequest, parse_head
from tests.exchange.institutions import der, without
from tests.exchange.two_boxes import TwoBoxes
from tests.fakes.exchange import ReadyMessage
from tests.seal.workshop import HOUR_US, SECOND_US


def refusal(boxes: TwoBoxes, sealed: Sealed, source: ReadyMessage | None = None) -> str:
    with pytest.raises(XacbeError) as refused:
        boxes.provide(sealed, source=source)
    return refused.value.kind


def _good(boxes: TwoBoxes) -> Sealed:
    return boxes.message(boxes.request())


# -- who may ask what


@dataclass(frozen=True)
class NoRight:
    """A request that must not even have its body read."""

    name: str
    kind: str
    lay_out: Callable[[TwoBoxes], RestRequest]


def _rights(boxes: TwoBoxes, *rights: tuple[str, str]) -> RestRequest:
    """Only these rights (method, path) to the service, for the asker."""
    boxes.rights = [Right(str(boxes.network.service), str(boxes.network.asker.client), method, path) for method, path in rights]
    return boxes.request("POST", "/7")


def _right_of_the_member(boxes: TwoBoxes) -> RestRequest:
    boxes.rights = [Right(str(boxes.network.service), str(boxes.network.asker.member))]
    return boxes.request()


def _right_of_another_subsystem(boxes: TwoBoxes) -> RestRequest:
    boxes.rights = [Right(str(boxes.network.service), str(boxes.network.asker.client) + "-2")]
    return boxes.request()


def _switched_off(boxes: TwoBoxes) -> RestRequest:
    boxes.services = [msgspec.structs.replace(service, enabled=False) for service in boxes.services]
    return boxes.request()


def _suspended_provider(boxes: TwoBoxes) -> RestRequest:
    network = boxes.network
    boxes.provider_trust.parameters = network.shared(network.asker.registered(), network.provider.registered(suspended=True))
    return boxes.request()


def _suspended_asker(boxes: TwoBoxes) -> RestRequest:
    network = boxes.network
    boxes.provider_trust.parameters = network.shared(network.asker.registered(suspended=True), network.provider.registered())
    return boxes.request()


def _removed_asker(boxes: TwoBoxes) -> RestRequest:
    boxes.provider_trust.parameters = without(boxes.provider_trust.parameters, boxes.network.asker)
    return boxes.request()


def _expired(boxes: TwoBoxes) -> RestRequest:
    boxes.clock.us = boxes.provider_trust.expires_us
    return boxes.request()


def _in_the_name_of_a_third(boxes: TwoBoxes) -> RestRequest:
    """The asker's box speaks for a client of another box, which does have the right."""
    return boxes.request(service=boxes.network.closed_service, client=boxes.network.third.client)


NO_RIGHT = [
    NoRight("no right at all", "access.no_right", lambda boxes: _rights(boxes)),
    NoRight("right of somebody else", "access.no_right", lambda boxes: boxes.request(service=boxes.network.closed_service)),
    NoRight("right for another method", "access.no_right", lambda boxes: _rights(boxes, ("GET", "**"))),
    NoRight("right for another path", "access.no_right", lambda boxes: _rights(boxes, ("POST", "/8"), ("*", "/7/*"))),
    NoRight("right of the member, not of its subsystem", "access.no_right", _right_of_the_member),
    NoRight("right of a subsystem with a longer name", "access.no_right", _right_of_another_subsystem),
    NoRight("a path that leaves the service", "access.no_right", lambda boxes: boxes.request(path="/../reserved/1")),
    NoRight("a path that leaves the service, escaped", "access.no_right", lambda boxes: boxes.request(path="/%2e%2e/reserved/1")),
    NoRight(
        "a service that is not there",
        "access.unknown_service",
        lambda boxes: boxes.request(service=ServiceId(boxes.network.provider.client, "absent")),
    ),
    NoRight("a service that is switched off", "access.service_disabled", _switched_off),
    NoRight(
        "a provider of another box",
        "exchange.unknown_member",
        lambda boxes: boxes.request(service=ServiceId(boxes.network.third.client, "incidents")),
    ),
    NoRight("a provider that is not in the configuration any more", "exchange.unknown_member", _suspended_provider),
    NoRight("a client that is not in the configuration any more", "peer.not_registered", _suspended_asker),
    NoRight("a box that is not in the configuration any more", "peer.not_registered", _removed_asker),
    NoRight("a client of another box", "peer.not_registered", _in_the_name_of_a_third),
    NoRight(
        "a client that nobody registered",
        "peer.not_registered",
        lambda boxes: boxes.request(client=ClientId("QROO-TEST", "GOV", "1001", "other")),
    ),
    NoRight("an expired configuration", "configuration.expired", _expired),
]


@pytest.mark.rule("I.4.III", "II.2.XIV", "II.2.II")
@pytest.mark.case("T15", "T16")
@pytest.mark.parametrize("case", NO_RIGHT, ids=lambda case: case.name)
def test_who_has_no_right_is_refused_before_the_body_and_leaves_no_message(boxes: TwoBoxes, case: NoRight) -> None:
    sealed = boxes.message(case.lay_out(boxes))
    source = ReadyMessage(sealed)

    assert refusal(boxes, sealed, source) == case.kind
    assert not source.asked
    assert boxes.saw_nothing()


@pytest.mark.rule("I.4.III")
def test_a_right_to_one_endpoint_serves_that_endpoint(boxes: TwoBoxes) -> None:
    boxes.provide(boxes.message(_rights(boxes, ("POST", "/7"))))

    assert len(boxes.system.calls) == 1


@pytest.mark.rule("II.2.II")
def test_a_configuration_that_expires_while_the_body_comes_is_not_believed_any_more(boxes: TwoBoxes) -> None:
    sealed = boxes.message(boxes.request())

    def expire() -> None:
        boxes.provider_trust.expires_us = boxes.clock.us

    assert refusal(boxes, sealed, ReadyMessage(sealed, during=expire)) == "configuration.expired"
    assert boxes.saw_nothing()


# -- the stamp


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20", "T21")
@pytest.mark.parametrize(
    ("offset_us", "accuracy_us", "accepted"),
    [
        (0, 0, True),
        (8 * HOUR_US, 0, True),
        (8 * HOUR_US + 1, 0, False),
        (8 * HOUR_US, 1, False),
        (8 * HOUR_US - SECOND_US, SECOND_US, True),
        (-8 * HOUR_US, 0, True),
        (-8 * HOUR_US - 1, 0, False),
    ],
)
def test_a_request_s_two_proofs_lie_at_most_eight_hours_apart(boxes: TwoBoxes, offset_us: int, accuracy_us: int, accepted: bool) -> None:
    boxes.provider_log.stamp_at_us, boxes.provider_log.accuracy_us = boxes.clock.us + offset_us, accuracy_us
    sealed = _good(boxes)

    if accepted:
        boxes.provide(sealed)
    else:
        assert refusal(boxes, sealed) == "seal.evidence_gap"
    assert len(boxes.system.calls) == int(accepted)


@pytest.mark.rule("IV.3.VI")
@pytest.mark.case("T39")
def test_without_a_stamp_the_request_is_recorded_and_not_processed(boxes: TwoBoxes) -> None:
    boxes.provider_log.tsa_silent = True

    assert refusal(boxes, _good(boxes)) == "tsa.unreachable"
    assert boxes.witness == ["provider logs request, not stamped"]


@pytest.mark.rule("IV.3.VI")
@pytest.mark.case("T39")
def test_within_a_signed_grace_the_request_is_processed_provisionally(boxes: TwoBoxes) -> None:
    boxes.provider_log.tsa_silent, boxes.provider_log.grace_us = True, 4 * HOUR_US

    boxes.provide(_good(boxes))

    assert boxes.witness[:2] == ["provider logs request, provisional", "system sees POST /7?x=1"]
    assert boxes.provider_log.kept[0].provisional_until_us == boxes.clock.us + 4 * HOUR_US


@pytest.mark.rule("IV.3.VI")
def test_a_log_that_promises_neither_stamp_nor_grace_lets_nothing_through(boxes: TwoBoxes) -> None:
    """The recorder never answers so; if a fault in it did, the conversation would still not deliver."""
    append = boxes.provider_log.append

    async def forgets_the_stamp(record: Append) -> Appended:
        appended = await append(record)
        return Appended(appended.sequence, appended.at_us, None, None)

    boxes.provider_log.append = forgets_the_stamp  # type: ignore[method-assign]  # the fault

    assert refusal(boxes, _good(boxes)) == "seal.not_stamped"
    assert boxes.system.calls == []


# -- what is away


def _fill_log(boxes: TwoBoxes) -> None:
    boxes.provider_log.fill()


def _kill_recorder(boxes: TwoBoxes) -> None:
    boxes.provider_log.kill()


@pytest.mark.rule("I.4.XV")
@pytest.mark.parametrize(("break_it", "kind"), [(_fill_log, "log.full"), (_kill_recorder, "process.away")])
def test_what_cannot_be_recorded_is_not_processed(boxes: TwoBoxes, break_it: Callable[[TwoBoxes], None], kind: str) -> None:
    break_it(boxes)

    assert refusal(boxes, _good(boxes)) == kind
    assert boxes.saw_nothing()


def test_an_answer_that_cannot_be_sealed_is_not_sent_and_not_recorded(boxes: TwoBoxes) -> None:
    boxes.provider_sealer.away = "token.absent"

    assert refusal(boxes, _good(boxes)) == "token.absent"
    assert boxes.provider_log.messages(RESPONSE) == []


@pytest.mark.rule("I.4.XV")
def test_an_answer_that_cannot_be_recorded_is_not_sent(boxes: TwoBoxes) -> None:
    seal = boxes.provider_sealer.seal

    async def and_then_the_log_is_full(*arguments: object) -> Seal:
        boxes.provider_log.fill()
        return await seal(*arguments)  # type: ignore[arg-type]  # handed through

    boxes.provider_sealer.seal = and_then_the_log_is_full  # type: ignore[method-assign,assignment]  # the disk fills between the two records

    assert refusal(boxes, _good(boxes)) == "log.full"
    assert boxes.provider_log.messages(RESPONSE) == []


@pytest.mark.parametrize("kind", ["service.unreachable", "service.timeout", "service.broken"])
def test_a_system_that_is_away_leaves_the_request_in_the_log(boxes: TwoBoxes, kind: str) -> None:
    boxes.system.fails = UnavailableError("nobody there", kind=kind)

    assert refusal(boxes, _good(boxes)) == kind
    assert [one.record.direction for one in boxes.provider_log.kept] == [REQUEST]


def test_a_head_without_a_request_id_is_answered_with_that_of_the_envelope(boxes: TwoBoxes) -> None:
    head = re.sub(rb"x-road-request-id:[^\r]*\r\n", b"", boxes.request().head)
    bare = parse_head(head)
    assert isinstance(bare, RestRequest)

    answer = boxes.provide(boxes.message(bare))

    assert b"\r\nx-road-request-id:envelope-id\r\n" in answer.head


def test_the_peer_s_certificate_is_not_the_seal_s(boxes: TwoBoxes) -> None:
    peer = replace(boxes.connection(), certificate=der(boxes.network.asker.seal))

    with pytest.raises(XacbeError) as refused:
        boxes.provide(_good(boxes), peer)

    assert refused.value.kind == "peer.not_registered"
    assert boxes.saw_nothing()
