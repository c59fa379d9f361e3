"""Which box is at the other end of a connection: registered, issued by an approved CA, good now, and the right one for this message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from appliance.clock import to_us
from appliance.errors import XacbeError
from appliance.exchange.peer_trust import FINDINGS_MAX, RECHECK_US, PeerTrust
from appliance.trust.global_configuration import SharedParameters
from tests.exchange.institutions import Institution, Network, der, without
from tests.fakes.exchange import SetClock
from tests.seal.workshop import HOUR_US, NOON_US, SECOND_US


@dataclass
class Desk:
    """Somebody who judges peers: the trust, its clock and its configuration."""

    network: Network

    def __post_init__(self) -> None:
        self.clock = SetClock(NOON_US)
        self.trust = PeerTrust(self.clock)
        self.shared = self.network.shared()

    def evidence(self, institution: Institution, ago_us: int = 0, revoked_us: int | None = None) -> bytes:
        return self.network.authority.confirmation(institution.peer, self.clock.us - ago_us, revoked_us)

    def sender(self, institution: Institution, *responses: bytes) -> None:
        """The institution's own box sends a message of the institution's own client."""
        self.trust.check_sender(der(institution.peer), responses, institution.client, self.shared)


@pytest.fixture
def desk(network: Network) -> Desk:
    return Desk(network)


@dataclass(frozen=True)
class Bad:
    """What a peer shows, and why it is not believed."""

    name: str
    kind: str
    show: Callable[[Desk], None]


def _client_of_another_box(desk: Desk) -> None:
    third, asker = desk.network.third, desk.network.asker
    desk.trust.check_sender(der(third.peer), [desk.evidence(third)], asker.client, desk.shared)


def _provider_of_another_box(desk: Desk) -> None:
    third, provider = desk.network.third, desk.network.provider
    desk.trust.check_provider(der(third.peer), [desk.evidence(third)], provider.client, desk.shared)


def _seal_certificate(desk: Desk) -> None:
    """Registered by mistake or malice: it is for signing, not for TLS."""
    asker = desk.network.asker
    hashes = frozenset({hashlib.sha256(der(asker.seal)).digest()})
    shared = desk.network.shared(replace(asker.registered(), auth_hashes=hashes))
    confirmation = desk.network.authority.confirmation(asker.seal, desk.clock.us)
    desk.trust.check_sender(der(asker.seal), [confirmation], asker.client, shared)


def _stranger(desk: Desk) -> None:
    """Registered, but issued by an authority that is not approved."""
    stranger = Institution(desk.network.stranger, "1001", "solomon")
    confirmation = desk.network.stranger.confirmation(stranger.peer, desk.clock.us)
    desk.trust.check_sender(der(stranger.peer), [confirmation], stranger.client, desk.network.shared(stranger.registered()))


def _expired(desk: Desk) -> None:
    desk.clock.us = to_us(desk.network.asker.peer.not_valid_after_utc) + SECOND_US
    desk.sender(desk.network.asker, desk.evidence(desk.network.asker))


def _unreadable(desk: Desk) -> None:
    server = replace(desk.network.asker.registered(), auth_hashes=frozenset({hashlib.sha256(b"not DER").digest()}))
    desk.trust.check_sender(b"not DER", [], desk.network.asker.client, desk.network.shared(server))


BAD = [
    Bad("not registered", "peer.not_registered", lambda desk: desk.sender(desk.network.outsider, desk.evidence(desk.network.outsider))),
    Bad("registered for another client", "peer.not_registered", _client_of_another_box),
    Bad("registered for another provider", "peer.not_registered", _provider_of_another_box),
    Bad("a certificate for signing", "peer.not_registered", _seal_certificate),
    Bad("registered but unreadable", "peer.not_registered", _unreadable),
    Bad("from a stranger's authority", "peer.certificate_refused", _stranger),
    Bad("expired", "peer.certificate_refused", _expired),
    Bad("no OCSP response", "peer.evidence_missing", lambda desk: desk.sender(desk.network.asker)),
    Bad(
        "an OCSP response about another box",
        "peer.certificate_refused",
        lambda desk: desk.sender(desk.network.asker, desk.evidence(desk.network.third)),
    ),
    Bad(
        "a stale OCSP response",
        "peer.certificate_refused",
        lambda desk: desk.sender(desk.network.asker, desk.evidence(desk.network.asker, 8 * HOUR_US + SECOND_US)),
    ),
    Bad(
        "revoked",
        "peer.certificate_refused",
        lambda desk: desk.sender(desk.network.asker, desk.evidence(desk.network.asker, revoked_us=NOON_US - HOUR_US)),
    ),
    Bad("noise instead of an OCSP response", "peer.certificate_refused", lambda desk: desk.sender(desk.network.asker, b"\x30\x00")),
]


@pytest.mark.rule("I.4.XVIII", "IV.2.I")
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_peer_is_believed_only_by_its_registered_and_confirmed_certificate(desk: Desk, case: Bad) -> None:
    with pytest.raises(XacbeError) as refused:
        case.show(desk)

    assert refused.value.kind == case.kind


@pytest.mark.rule("I.4.XVIII")
def test_a_registered_box_with_good_evidence_is_believed_for_its_clients_and_its_owner(desk: Desk) -> None:
    asker = desk.network.asker

    desk.sender(asker, b"\x30\x00", desk.evidence(desk.network.third), desk.evidence(asker))

    desk.trust.check_sender(der(asker.peer), [], asker.member, desk.shared)
    desk.trust.check_provider(der(asker.peer), [], asker.client, desk.shared)


def test_a_finding_about_a_box_does_not_cover_clients_of_another(desk: Desk) -> None:
    desk.sender(desk.network.asker, desk.evidence(desk.network.asker))

    with pytest.raises(XacbeError) as refused:
        desk.trust.check_sender(der(desk.network.asker.peer), [], desk.network.third.client, desk.shared)

    assert refused.value.kind == "peer.not_registered"


@pytest.mark.case("T22")
def test_a_finding_holds_for_a_minute_and_then_the_evidence_is_asked_for_again(desk: Desk) -> None:
    asker = desk.network.asker
    desk.sender(asker, desk.evidence(asker))

    desk.clock.us += RECHECK_US - 1
    desk.sender(asker)
    assert desk.trust.known(der(asker.peer), desk.shared)

    desk.clock.us += 1
    assert not desk.trust.known(der(asker.peer), desk.shared)
    with pytest.raises(XacbeError) as refused:
        desk.sender(asker)
    assert refused.value.kind == "peer.evidence_missing"


@pytest.mark.rule("II.2.XIV")
@pytest.mark.parametrize("next_one", [lambda shared, _: replace(shared), without], ids=["unchanged", "without the box"])
def test_a_new_configuration_ends_every_finding_at_once(
    desk: Desk, next_one: Callable[[SharedParameters, Institution], SharedParameters]
) -> None:
    desk.sender(desk.network.asker, desk.evidence(desk.network.asker))
    desk.shared = next_one(desk.shared, desk.network.asker)

    assert not desk.trust.known(der(desk.network.asker.peer), desk.shared)
    with pytest.raises(XacbeError) as refused:
        desk.sender(desk.network.asker)
    assert refused.value.kind in ("peer.evidence_missing", "peer.not_registered")


def test_a_bad_peer_does_not_end_the_finding_about_a_good_one(desk: Desk) -> None:
    desk.sender(desk.network.asker, desk.evidence(desk.network.asker))

    with pytest.raises(XacbeError):
        desk.sender(desk.network.third)

    desk.sender(desk.network.asker)
    assert not desk.trust.known(der(desk.network.third.peer), desk.shared)


def test_the_end_of_a_handshake_asks_only_for_the_registration(desk: Desk) -> None:
    assert desk.trust.check_registered(der(desk.network.asker.peer), desk.shared).id == desk.network.asker.server
    with pytest.raises(XacbeError) as refused:
        desk.trust.check_registered(der(desk.network.outsider.peer), desk.shared)
    assert refused.value.kind == "peer.not_registered"


def test_findings_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.exchange.peer_trust.FINDINGS_MAX", 1)
    assert FINDINGS_MAX == 4096

    desk.sender(desk.network.asker, desk.evidence(desk.network.asker))
    desk.sender(desk.network.third, desk.evidence(desk.network.third))

    assert desk.trust.known(der(desk.network.third.peer), desk.shared)
    assert not desk.trust.known(der(desk.network.asker.peer), desk.shared)


@pytest.mark.rule("II.2.X")
def test_a_peer_of_a_federated_instance_is_registered_there_and_judged_by_its_authorities(desk: Desk) -> None:
    foreign = replace(desk.shared, instance="YUC-TEST", servers=desk.shared.servers[:1])
    own = replace(desk.shared, servers=desk.shared.servers[1:])
    first = desk.shared.servers[0]
    shown = next(
        one
        for one in (desk.network.asker, desk.network.provider, desk.network.third)
        if hashlib.sha256(der(one.peer)).digest() in first.auth_hashes
    )

    assert desk.trust.check_registered(der(shown.peer), own, foreign).id == first.id
    with pytest.raises(XacbeError, match="not registered"):
        desk.trust.check_registered(der(shown.peer), own)

    desk.trust.check_sender(der(shown.peer), [desk.evidence(shown)], shown.client, foreign)
    assert desk.trust.known(der(shown.peer), foreign)
    assert not desk.trust.known(der(shown.peer), own), "a finding of one instance is none of another's"
