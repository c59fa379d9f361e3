"""Whatever fails, and whoever forges, in whatever order: what is delivered was recorded, stamped and verified, and who has no right is
not served."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.client_side import Delivery
from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import REQUEST, RESPONSE
from appliance.net.message_protocol import RestRequest, digest_of
from tests.exchange.institutions import Network
from tests.exchange.two_boxes import TwoBoxes, with_body
from tests.fakes.exchange import Kept, SealKey, body_of
from tests.seal.workshop import HOUR_US, SECOND_US

_REQUEST_ID = re.compile(rb"\r\nx-road-request-id:([0-9a-f]{32})\r\n")


class Trial:
    """A run of exchanges through the same two boxes; faults last for one exchange, logs and guards stay."""

    def __init__(self, network: Network) -> None:
        self.boxes = TwoBoxes(network)
        self.closed = False
        self.sent: list[Sealed] = []
        self.answers: list[Sealed] = []
        self.deliveries: list[tuple[RestRequest, Delivery]] = []

    def heal(self) -> None:
        """Everything works again, half an hour later."""
        boxes, network = self.boxes, self.boxes.network
        boxes.clock.us += HOUR_US // 2
        for log in (boxes.log, boxes.provider_log):
            log.heal()
            log.grace_us, log.stamp_at_us = 0, None
        for sealer, institution in ((boxes.sealer, network.asker), (boxes.provider_sealer, network.provider)):
            sealer.away = None
            sealer.keys = {institution.member: boxes.key(institution)}
        boxes.system.fails = boxes.peers.fails = None
        boxes.peers.on_the_way, boxes.peers.on_the_way_back = self._note_request, self._note_answer
        for trust in (boxes.trust, boxes.provider_trust):
            trust.parameters, trust.expires_us = network.shared(), boxes.clock.us + 9 * HOUR_US
        boxes.shown_by, self.closed = network.asker, False

    def exchange(self, faults: frozenset[str]) -> bool:
        """One exchange under these faults; whether its answer was delivered."""
        self.heal()
        for fault in sorted(faults):
            FAULTS[fault](self)
        boxes = self.boxes
        request = boxes.request(service=boxes.network.closed_service if self.closed else None)
        try:
            delivery = boxes.ask(request)
        except XacbeError:
            return False
        self.deliveries.append((request, delivery))
        return True

    def _note_request(self, sealed: Sealed) -> Sealed:
        self.sent.append(sealed)
        return sealed

    def _note_answer(self, sealed: Sealed) -> Sealed:
        self.answers.append(sealed)
        return sealed


def _set(part: str, name: str, value: object) -> Callable[[Trial], None]:
    return lambda trial: setattr(getattr(trial.boxes, part), name, value)


def _late_stamps(part: str, late_us: int) -> Callable[[Trial], None]:
    return lambda trial: setattr(getattr(trial.boxes, part), "stamp_at_us", trial.boxes.clock.us + late_us)


def _forged_on_the_way(change: Callable[[Trial, Sealed], Sealed]) -> Callable[[Trial], None]:
    return lambda trial: setattr(trial.boxes.peers, "on_the_way", lambda sealed: change(trial, sealed))


def _forged_on_the_way_back(change: Callable[[Trial, Sealed], Sealed]) -> Callable[[Trial], None]:
    return lambda trial: setattr(trial.boxes.peers, "on_the_way_back", lambda sealed: change(trial, sealed))


def _confirmations(part: str, ago_us: int, revoked: bool) -> Callable[[Trial], None]:
    """The box seals with an OCSP response that is old or bad."""

    def lay_out(trial: Trial) -> None:
        authority, sealer = trial.boxes.network.authority, getattr(trial.boxes, part)
        for member, key in list(sealer.keys.items()):
            certificate = key.certificate

            def confirmation(at_us: int, of: object = certificate) -> bytes:
                return authority.confirmation(of, at_us - ago_us, at_us - HOUR_US if revoked else None)  # type: ignore[arg-type]  # bound above

            sealer.keys[member] = SealKey(key.key, certificate, confirmation)

    return lay_out


def _sealed_by_the_third(trial: Trial, sealed: Sealed) -> Sealed:
    boxes = trial.boxes
    parts = [("/message.xml", digest_of(sealed.head))] + ([("/attachment1", sealed.body.digest)] if sealed.body else [])
    return replace(sealed, seal=boxes.key(boxes.network.third).seal([parts], boxes.clock.us)[0])


def _for_the_closed_service(trial: Trial) -> None:
    trial.closed = True


def _third_s_connection(trial: Trial) -> None:
    trial.boxes.shown_by = trial.boxes.network.third


def _suspended(trial: Trial) -> None:
    network = trial.boxes.network
    trial.boxes.provider_trust.parameters = network.shared(network.asker.registered(), network.provider.registered(suspended=True))


def _expired(part: str) -> Callable[[Trial], None]:
    return lambda trial: setattr(getattr(trial.boxes, part), "expires_us", trial.boxes.clock.us)


FAULTS: dict[str, Callable[[Trial], None]] = {
    "asker's token away": _set("sealer", "away", "token.absent"),
    "provider's token away": _set("provider_sealer", "away", "token.locked"),
    "asker's log full": lambda trial: trial.boxes.log.fill(),
    "provider's log full": lambda trial: trial.boxes.provider_log.fill(),
    "provider's recorder away": lambda trial: trial.boxes.provider_log.kill(),
    "asker unstamped": _set("log", "tsa_silent", True),
    "provider unstamped": _set("provider_log", "tsa_silent", True),
    "grace for the asker": _set("log", "grace_us", HOUR_US),
    "grace for the provider": _set("provider_log", "grace_us", HOUR_US),
    "asker stamped after nine hours": _late_stamps("log", 9 * HOUR_US),
    "provider stamped after nine hours": _late_stamps("provider_log", 9 * HOUR_US),
    "provider stamped at almost eight hours": _late_stamps("provider_log", 8 * HOUR_US - SECOND_US),
    "system away": _set("system", "fails", UnavailableError("away", kind="service.timeout")),
    "peer away": _set("peers", "fails", UnavailableError("away", kind="peer.unreachable")),
    "asker revoked": _confirmations("sealer", 0, revoked=True),
    "provider revoked": _confirmations("provider_sealer", 0, revoked=True),
    "asker's evidence seven hours old": _confirmations("sealer", 7 * HOUR_US, revoked=False),
    "provider's evidence nine hours old": _confirmations("provider_sealer", 9 * HOUR_US, revoked=False),
    "request's body forged": _forged_on_the_way(lambda _, sealed: with_body(sealed, b"forged")),
    "request's head forged": _forged_on_the_way(lambda _, sealed: replace(sealed, head=sealed.head.replace(b"/7?x=1", b"/9?x=1"))),
    "request sealed by the third": _forged_on_the_way(_sealed_by_the_third),
    "request replayed": _forged_on_the_way(lambda trial, sealed: trial.sent[0] if trial.sent else sealed),
    "answer's body forged": _forged_on_the_way_back(lambda _, sealed: with_body(sealed, b"forged")),
    "answer sealed by the third": _forged_on_the_way_back(_sealed_by_the_third),
    "answer of another exchange": _forged_on_the_way_back(lambda trial, sealed: trial.answers[0] if trial.answers else sealed),
    "connection of the third": _third_s_connection,
    "no right": _for_the_closed_service,
    "provider suspended": _suspended,
    "asker's configuration expired": _expired("trust"),
    "provider's configuration expired": _expired("provider_trust"),
}
FATAL = frozenset(FAULTS) - {
    "grace for the asker",
    "grace for the provider",
    "asker's evidence seven hours old",
    "provider stamped at almost eight hours",
    "request replayed",  # where nothing was sent before, there is nothing to replay
    "answer of another exchange",
}


def _request_id(head: bytes) -> bytes:
    found = _REQUEST_ID.search(head)
    assert found
    return found[1]


def _is_evidence(trial: Trial, kept: Kept) -> bool:
    """Stamped, and valid for a third party; or provisional, within the grace."""
    return kept.provisional_until_us is not None if kept.stamp is None else trial.boxes.verified(kept).verdict == "valid"


def _check_delivered(trial: Trial) -> None:
    """I1, I2 at the asker: what its system saw is in the log, stamped, sealed by the provider; and so is the question."""
    kept = {_request_id(one.record.message): one for one in trial.boxes.log.kept if one.record.direction == RESPONSE}
    asked = {_request_id(record.message) for record in trial.boxes.log.messages(REQUEST)}
    for request, delivery in trial.deliveries:
        number = request.request_id.encode()
        assert number in asked
        assert kept[number].record.message == delivery.response.head
        assert (kept[number].record.body, delivery.body) == (b"an answer", body_of(b"an answer"))
        assert _is_evidence(trial, kept[number])


def _check_served(trial: Trial) -> None:
    """I1, I2, I6 at the provider: every call rests on one record of its own, with a right, a stamp and the words that were recorded."""
    boxes = trial.boxes
    kept = {_request_id(one.record.message): one for one in boxes.provider_log.kept if one.record.direction == REQUEST}
    served = [dict(call.headers)[b"x-road-request-id"] for call in boxes.system.calls]
    assert len(set(served)) == len(served)
    for number, call in zip(served, boxes.system.calls, strict=True):
        assert call.service == str(boxes.network.service)
        assert (call.target, call.body) == ("/7?x=1", b"a question")
        assert kept[number].record.body == b"a question"
        assert _is_evidence(trial, kept[number])


@pytest.mark.rule("IV.3.VI", "I.4.III", "I.4.XV")
@pytest.mark.case("T36")
@given(st.lists(st.frozensets(st.sampled_from(sorted(FAULTS)), max_size=3), max_size=5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_delivered_means_recorded_stamped_and_verified_whatever_fails(network: Network, run: list[frozenset[str]]) -> None:
    trial = Trial(network)

    for faults in run:
        trial.exchange(faults)

    assert trial.exchange(frozenset())  # I5: once everything is healed, the next one passes
    _check_delivered(trial)
    _check_served(trial)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_alone_does_what_it_should_to_the_second_exchange(network: Network, fault: str) -> None:
    """Otherwise the property above would hold because nothing ever happens."""
    trial = Trial(network)
    assert trial.exchange(frozenset())

    fatal = fault in FATAL or fault in ("request replayed", "answer of another exchange")
    assert trial.exchange(frozenset({fault})) == (not fatal)
    _check_delivered(trial)
    _check_served(trial)


@pytest.mark.case("T39")
def test_a_grace_lets_both_sides_deliver_while_nobody_stamps(network: Network) -> None:
    trial = Trial(network)
    silent = {"asker unstamped", "provider unstamped"}

    assert not trial.exchange(frozenset(silent | {"grace for the asker"}))
    assert not trial.exchange(frozenset(silent | {"grace for the provider"}))
    assert trial.exchange(frozenset(silent | {"grace for the asker", "grace for the provider"}))


def test_the_invariants_find_a_box_that_delivers_what_was_not_recorded(network: Network) -> None:
    """The mutation: a log that forgets what it has acknowledged."""
    trial = Trial(network)
    trial.exchange(frozenset())
    trial.boxes.log.kept.pop()
    trial.boxes.provider_log.kept.pop(0)

    with pytest.raises(KeyError):
        _check_delivered(trial)
    with pytest.raises(KeyError):
        _check_served(trial)


def test_time_passes_between_exchanges(network: Network) -> None:
    """A working day of exchanges: guards forget, evidence is renewed, and everything still passes."""
    trial = Trial(network)

    assert all(trial.exchange(frozenset()) for _ in range(20))
    assert trial.boxes.clock.us - trial.boxes.trust.expires_us == -9 * HOUR_US
    assert len({kept.record.signed_at_us // SECOND_US for kept in trial.boxes.provider_log.kept if kept.record.received}) == 20
