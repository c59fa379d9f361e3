"""What peers seal, forge and send again: a message is processed once, and only if its sender's seal covers every byte of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import REQUEST, Seal
from appliance.seal import xades
from appliance.trust.ocsp import build_request
from provisioning.authority import ocsp_responder
from provisioning.authority.ocsp_responder import Delegate
from tests.exchange.institutions import Institution
from tests.exchange.test_provider_side import refusal
from tests.exchange.two_boxes import TwoBoxes, with_body, with_signature
from tests.fakes.exchange import SealKey, body_of
from tests.seal.workshop import HOUR_US, SECOND_US

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


def _with_two_confirmations(boxes: TwoBoxes, sealed: Sealed) -> Sealed:
    end, more = b"</xades:OCSPValues>", boxes.confirmation(boxes.network.third)
    value = f'<xades:EncapsulatedOCSPValue Id="ocsp-response-2">{xades.base64_text(more)}</xades:EncapsulatedOCSPValue>'.encode()
    return with_signature(sealed, sealed.seal.signature.replace(end, value + end))


@pytest.mark.case("T13")
@pytest.mark.parametrize(
    "dress",
    [_the_same, _with_a_new_confirmation, _with_two_confirmations],
    ids=["as it was", "new OCSP value", "one more OCSP value"],
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


@pytest.mark.case("T04")
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"<ds:KeyInfo>", b"<ds:KeyInfo>\n  "),
        (b"<xades:OCSPValues>", b"<xades:OCSPValues><!-- again -->"),
        (b"<xades:OCSPValues>", b"<xades:OCSPValues >"),
        (b"<xades:OCSPValues>", b"<xades:OCSPValues Id='a'>"),
        (b"ocsp-response-1", b"ocsp-response-x"),
        (b"signature-value", b"signature-valuf"),
        (b"</ds:X509Certificate>", b"\n</ds:X509Certificate>"),
        (b"?><asic", b"?> <asic"),
    ],
)
def test_unsigned_bytes_that_nobody_writes_are_refused(boxes: TwoBoxes, was: bytes, becomes: bytes) -> None:
    sealed = _good(boxes)
    assert was in sealed.seal.signature

    assert refusal(boxes, with_signature(sealed, sealed.seal.signature.replace(was, becomes))) == "seal.malformed"
    assert boxes.saw_nothing()


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
