"""The provider's half: what a peer sends reaches the information system only with a right, a seal, a record and a stamp."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from appliance.access.rights import Right
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import REQUEST, RESPONSE, Seal
from appliance.model.identifiers import ClientId, ServiceId
from appliance.net.message_protocol import RestRequest, parse_head
from appliance.seal import xades
from appliance.trust.ocsp import build_request
from provisioning.authority import ocsp_responder
from provisioning.authority.ocsp_responder import Delegate
from tests.exchange.institutions import Institution, der, without
from tests.exchange.two_boxes import TwoBoxes, with_body, with_signature
from tests.fakes.exchange import ReadyMessage, SealKey, body_of
from tests.seal.workshop import HOUR_US, SECOND_US


def refusal(boxes: TwoBoxes, sealed: Sealed, source: ReadyMessage | None = None) -> str:
    with pytest.raises(XacbeError) as refused:
        boxes.provide(sealed, source=source)
    return refused.value.kind


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


# -- whose seal, over what, with which evidence


@dataclass(frozen=True)
class BadSeal:
    """A message whose seal does not hold, and the kind that says why."""

    name: str
    kind: str
    make: Callable[[TwoBoxes], Sealed]


def _good(boxes: TwoBoxes) -> Sealed:
    return boxes.message(boxes.request())


def _confirmed(boxes: TwoBoxes, *confirmations: bytes) -> Sealed:
    return boxes.message(boxes.request(), confirmations=confirmations)


def _head_changed(boxes: TwoBoxes) -> Sealed:
    sealed = _good(boxes)
    return replace(sealed, head=sealed.head.replace(b"/7?x=1", b"/8?x=1"))


def _seal_of_another_message(boxes: TwoBoxes) -> Sealed:
    one, other = _good(boxes), _good(boxes)
    return replace(one, seal=other.seal)


def _chain_of_another_in_the_batch(boxes: TwoBoxes) -> Sealed:
    one, other = boxes.request(), boxes.request()
    leaves = [[("/message.xml", request.digest)] for request in (one, other)]
    seals = boxes.key(boxes.network.asker).seal(leaves, boxes.clock.us)
    return Sealed(one.head, None, seals[1])


def _without(boxes: TwoBoxes, *names: str) -> Sealed:
    sealed = _good(boxes)
    chain_result, chain = (None if name in names else getattr(sealed.seal, name) for name in FIELDS)
    return replace(sealed, seal=Seal(sealed.seal.signature, chain_result, chain, 0, 0))


FIELDS = ("chain_result", "chain")


def _body_beside_a_seal_over_the_head_alone(boxes: TwoBoxes) -> Sealed:
    return with_body(boxes.message(boxes.request(), None), b"smuggled")


def _confirmed_by_a_member(boxes: TwoBoxes) -> Sealed:
    """The third member's certificate is CEIQROO's, but not for answering about others."""
    third = boxes.network.third
    return _confirmed(boxes, _confirmation_by(boxes, third.peer, third.peer_key))


def _confirmed_with_another_key(boxes: TwoBoxes) -> Sealed:
    return _confirmed(boxes, _confirmation_by(boxes, boxes.network.authority.ocsp, boxes.network.third.peer_key))


def _confirmation_by(boxes: TwoBoxes, certificate: Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    authority = boxes.network.authority
    request = build_request(boxes.network.asker.seal, authority.approved)
    good = ocsp_responder.CertificateStatus()
    return ocsp_responder.answer(request, lambda _: good, Delegate(authority.issuing, certificate, key), boxes.clock.us, 9 * 3600)


def _sealed_with_the_tls_key(boxes: TwoBoxes) -> Sealed:
    asker, request = boxes.network.asker, boxes.request()
    authority = boxes.network.authority
    key = SealKey(asker.peer_key, asker.peer, lambda at_us: authority.confirmation(asker.peer, at_us))
    return Sealed(request.head, None, key.seal([[("/message.xml", request.digest)]], boxes.clock.us)[0])


def _sealed_under_a_stranger_s_authority(boxes: TwoBoxes) -> Sealed:
    impostor = Institution(boxes.network.stranger, "1001", "solomon")
    return boxes.message(boxes.request(), by=impostor, confirmations=[boxes.network.stranger.confirmation(impostor.seal, boxes.clock.us)])


def _value_of_another_signature(boxes: TwoBoxes) -> Sealed:
    one, other = _good(boxes), _good(boxes)
    value = re.compile(rb'<ds:SignatureValue Id="signature-value">([^<]*)<')
    own, foreign = value.search(one.seal.signature), value.search(other.seal.signature)
    assert own
    assert foreign
    return with_signature(one, one.seal.signature.replace(own[1], foreign[1]))


def _stale(boxes: TwoBoxes, ago_us: int) -> Sealed:
    return _confirmed(boxes, boxes.confirmation(boxes.network.asker, ago_us))


def _revoked(boxes: TwoBoxes) -> Sealed:
    return _confirmed(boxes, boxes.confirmation(boxes.network.asker, revoked_us=boxes.clock.us - HOUR_US))


def _of_the_third(boxes: TwoBoxes) -> Sealed:
    """The third member's honest seal on a message that names the asker."""
    return boxes.message(boxes.request(), by=boxes.network.third)


BAD_SEALS = [
    BadSeal("body changed", "seal.chain_result", lambda boxes: with_body(_good(boxes), b"another question")),
    BadSeal("body emptied", "seal.chain_result", lambda boxes: with_body(_good(boxes), b"")),
    BadSeal("body dropped", "seal.chain_unknown_reference", lambda boxes: with_body(_good(boxes), None)),
    BadSeal("body added", "seal.uncovered_part", _body_beside_a_seal_over_the_head_alone),
    BadSeal("head changed", "seal.chain_result", _head_changed),
    BadSeal("seal of another message", "seal.chain_result", _seal_of_another_message),
    BadSeal("chain of another message of the batch", "seal.chain_result", _chain_of_another_in_the_batch),
    BadSeal("chain dropped", "seal.chain_missing", lambda boxes: _without(boxes, "chain")),
    BadSeal("chain and result dropped", "seal.chain_missing", lambda boxes: _without(boxes, *FIELDS)),
    BadSeal("value of another signature", "seal.signature_value", _value_of_another_signature),
    BadSeal("seal of another member", "seal.wrong_signer", _of_the_third),
    BadSeal("sealed with the TLS key", "seal.key_usage", _sealed_with_the_tls_key),
    BadSeal("certificate of the same name from a stranger", "chain.untrusted", _sealed_under_a_stranger_s_authority),
    BadSeal("no OCSP response", "seal.no_ocsp", lambda boxes: _confirmed(boxes)),
    BadSeal("revoked", "ocsp.revoked", _revoked),
    BadSeal("stale by a second", "ocsp.stale", lambda boxes: _stale(boxes, 8 * HOUR_US + SECOND_US)),
    BadSeal("confirmed by a member's own key", "ocsp.untrusted", _confirmed_by_a_member),
    BadSeal("confirmed with the responder's certificate and another key", "ocsp.untrusted", _confirmed_with_another_key),
    BadSeal("about another certificate", "ocsp.mismatch", lambda boxes: _confirmed(boxes, boxes.confirmation(boxes.network.third))),
    BadSeal("not OCSP at all", "ocsp.malformed", lambda boxes: _confirmed(boxes, b"0\x03\x02\x01\x00")),
    BadSeal("not XML", "seal.malformed", lambda boxes: with_signature(_good(boxes), b"\x00")),
]


@pytest.mark.rule("IV.3.I", "IV.3.VI", "III.3.II")
@pytest.mark.case("T16")
@pytest.mark.parametrize("case", BAD_SEALS, ids=lambda case: case.name)
def test_what_the_seal_does_not_confirm_is_not_processed(boxes: TwoBoxes, case: BadSeal) -> None:
    assert refusal(boxes, case.make(boxes)) == case.kind
    assert boxes.saw_nothing()


def test_messages_of_one_batch_are_each_verified_and_served(boxes: TwoBoxes) -> None:
    requests = [boxes.request() for _ in range(3)]
    leaves = [[("/message.xml", request.digest), ("/attachment1", body_of(b"a question").digest)] for request in requests]
    seals = boxes.key(boxes.network.asker).seal(leaves, boxes.clock.us)

    for request, seal in zip(requests, seals, strict=True):
        boxes.provide(Sealed(request.head, body_of(b"a question"), seal))

    assert len(boxes.system.calls) == 3
    assert [boxes.verified(one).verdict for one in boxes.provider_log.kept] == ["valid"] * 6


def test_a_confirmation_is_found_among_others(boxes: TwoBoxes) -> None:
    network = boxes.network
    boxes.provide(_confirmed(boxes, boxes.confirmation(network.third), boxes.confirmation(network.asker)))

    assert len(boxes.system.calls) == 1


# -- replay


def _the_same(_: TwoBoxes, sealed: Sealed) -> Sealed:
    return sealed


def _with_a_new_confirmation(boxes: TwoBoxes, sealed: Sealed) -> Sealed:
    new, old = (xades.base64_text(boxes.confirmation(boxes.network.asker, ago_us)) for ago_us in (0, SECOND_US))
    pattern = re.compile(rb'(<xades:EncapsulatedOCSPValue Id="ocsp-response-1">)[^<]*')
    assert new != old
    return with_signature(sealed, pattern.sub(rb"\g<1>" + new.encode(), sealed.seal.signature))


def _with_another_layout(_: TwoBoxes, sealed: Sealed) -> Sealed:
    return with_signature(sealed, sealed.seal.signature.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo>\n  "))


def _with_a_comment(_: TwoBoxes, sealed: Sealed) -> Sealed:
    return with_signature(sealed, sealed.seal.signature.replace(b"<xades:OCSPValues>", b"<xades:OCSPValues><!-- again -->"))


def _with_two_confirmations(boxes: TwoBoxes, sealed: Sealed) -> Sealed:
    end, more = b"</xades:OCSPValues>", boxes.confirmation(boxes.network.third)
    value = f'<xades:EncapsulatedOCSPValue Id="ocsp-response-2">{xades.base64_text(more)}</xades:EncapsulatedOCSPValue>'.encode()
    return with_signature(sealed, sealed.seal.signature.replace(end, value + end))


@pytest.mark.case("T13")
@pytest.mark.parametrize(
    "dress",
    [_the_same, _with_a_new_confirmation, _with_another_layout, _with_a_comment, _with_two_confirmations],
    ids=["as it was", "new OCSP value", "other layout", "comment", "one more OCSP value"],
)
def test_a_sealed_message_is_processed_once_however_its_unsigned_bytes_are_dressed(
    boxes: TwoBoxes, dress: Callable[[TwoBoxes, Sealed], Sealed]
) -> None:
    sealed = _good(boxes)
    boxes.provide(sealed)
    boxes.clock.us += HOUR_US
    again = dress(boxes, sealed)
    assert (again.seal.signature == sealed.seal.signature) == (dress is _the_same)

    assert refusal(boxes, again) == "message.replayed"
    assert len(boxes.system.calls) == 1


@pytest.mark.case("T13")
def test_a_client_s_retry_is_a_new_seal_and_passes(boxes: TwoBoxes) -> None:
    request = boxes.request()
    boxes.provide(boxes.message(request))
    boxes.clock.us += 1000  # signing times are written in milliseconds

    boxes.provide(boxes.message(request))

    assert len(boxes.system.calls) == 2


@pytest.mark.case("T13")
def test_two_messages_of_one_batch_are_no_replay_of_each_other(boxes: TwoBoxes) -> None:
    requests = [boxes.request(), boxes.request()]
    seals = boxes.key(boxes.network.asker).seal([[("/message.xml", request.digest)] for request in requests], boxes.clock.us)

    for request, seal in zip(requests, seals, strict=True):
        boxes.provide(Sealed(request.head, None, seal))

    assert len(boxes.system.calls) == 2


@pytest.mark.case("T13")
@pytest.mark.parametrize(
    ("ago_us", "accepted"),
    [(8 * HOUR_US, True), (8 * HOUR_US + 1000, False), (-8 * HOUR_US, True), (-8 * HOUR_US - 1000, False), (30 * HOUR_US, False)],
)
def test_a_seal_of_more_than_eight_hours_ago_does_not_come_in(boxes: TwoBoxes, ago_us: int, accepted: bool) -> None:
    """However fresh the OCSP response is that somebody put beside it: the guard against replay has forgotten what is older."""
    sealed = boxes.message(boxes.request(), sealed_at_us=boxes.clock.us - ago_us)

    if accepted:
        boxes.provide(sealed)
    else:
        assert refusal(boxes, sealed) == "seal.too_old"
    assert len(boxes.system.calls) == len(boxes.provider_log.messages(REQUEST)) == int(accepted)


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
