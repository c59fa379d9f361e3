"""Working parts for the ports of an exchange (`appliance.exchange.ports`): a log, a sealer, peers, a system, trust, all in one process.

Seals, OCSP responses and time stamps are real; what is missing is sockets, disks and the token. Each part can be told to fail the way
its real counterpart does, and what happened is written into one list of words, in order: `witness`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.access.rights import Service
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.dialects import Request
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Body, Sealed, SoapAnswer, SystemAnswer
from appliance.exchange.provider_side import Peer, ProviderSide
from appliance.exchange.routing import InstanceUnknownError
from appliance.messagelog.groups import LogFullError
from appliance.messagelog.notices import NoticeUnknownError
from appliance.messagelog.replay import MessageReplayedError
from appliance.messagelog.stamping import NotStampedError
from appliance.messagelog.wire import Append, Appended, NoticeItem, Seal
from appliance.model.identifiers import ClientId
from appliance.net import faults
from appliance.net.local_client import NeighbourAwayError
from appliance.net.message_protocol import RestRequest, parse_head
from appliance.net.soap_protocol import parse_request
from appliance.net.soap_reader import read_fault
from appliance.relay.incoming import PeerFaultError
from appliance.relay.trust_view import ConfigurationExpiredError
from appliance.seal import xades
from appliance.seal.hash_chain import Part, build_batch, sha512
from appliance.trust.autonomy import EVIDENCE_GAP_MAX_US
from appliance.trust.global_configuration import SecurityServer, SharedParameters
from provisioning.authority import tsa

Witness = list[str]


@dataclass
class SetClock:
    """Stands where it is put."""

    us: int

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1_000_000


class SetTrust:
    """The global configuration in force until `expires_us`."""

    def __init__(self, clock: SetClock, shared: SharedParameters, expires_us: int) -> None:
        self._clock, self.parameters, self.expires_us = clock, shared, expires_us

    def shared(self, instance: str | None = None) -> SharedParameters:
        if self._clock.us >= self.expires_us:
            raise ConfigurationExpiredError("no valid global configuration")
        if instance not in (None, self.parameters.instance):
            raise InstanceUnknownError(f"no valid configuration of the instance {instance}")
        return self.parameters

    def instances(self) -> list[SharedParameters]:
        return [self.shared()]


@dataclass(frozen=True)
class SealKey:
    """A member's key, and where its OCSP responses come from (given the moment in microseconds)."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    confirmation: Callable[[int], bytes]

    def seal(self, leaves: Sequence[Sequence[Part]], at_us: int, confirmations: Sequence[bytes] | None = None) -> list[Seal]:
        """One signature over all leaves, as relay and signer make it. The times of the response are left to who needs them."""
        result, chains = build_batch(leaves)
        single = len(leaves) == 1 and len(leaves[0]) == 1
        signed, digest = (xades.SIGNED_MESSAGE, leaves[0][0][1]) if single else (xades.SIGNED_CHAIN, sha512(result))
        prepared = xades.prepare(self.certificate.public_bytes(Encoding.DER), signed, digest, at_us, "ecdsa-sha512")
        fragment = prepared.finish(self.key.sign(prepared.to_sign, ec.ECDSA(hashes.SHA512())))
        document = xades.complete(fragment, [self.confirmation(at_us)] if confirmations is None else confirmations)
        return [Seal(document, None if single else result, None if single else chain, 0, 0) for chain in chains]


@dataclass
class SoftwareSealer:
    """The port `Sealer` with keys in memory. `away`: the kind with which the token refuses."""

    clock: SetClock
    keys: dict[ClientId, SealKey]
    witness: Witness
    name: str
    away: str | None = None

    async def seal(self, member: ClientId, parts: Sequence[tuple[str, bytes]]) -> Seal:
        if self.away is not None:
            raise UnavailableError("the message could not be sealed", kind=self.away)
        self.witness.append(f"{self.name} seals")
        now_us = self.clock.us
        return self.keys[member].seal([parts], now_us, None)[0]


@dataclass(frozen=True)
class Kept:
    """One record of the log. `stamp`: a real token over its signature value; None where it waits for one."""

    record: Append
    stamped_at_us: int | None
    stamp: bytes | None
    provisional_until_us: int | None


@dataclass
class MemoryLog:
    """The port `Log`: a recorder without a disk.

    Invariants, each a RuntimeError where the caller breaks it: what was received is stamped before the answer and comes with its replay key
    and signing time; what was made here is not; a body is what its digest says. A replay key is accepted once.
    """

    clock: SetClock
    stamper: Callable[[bytes, int], bytes]
    witness: Witness
    name: str
    fails: XacbeError | None = None
    tsa_silent: bool = False
    grace_us: int = 0
    stamp_at_us: int | None = None
    """When the next stamps are made; None: now."""
    accuracy_us: int = tsa.ACCURACY_MS * 1000
    """What the stamps state; it counts against the seal."""
    kept: list[Kept] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    async def append(self, record: Append) -> Appended:
        if self.fails is not None:
            raise self.fails
        self._check(record)
        if record.replay_key is not None:
            if record.replay_key in self._seen:
                raise MessageReplayedError("this sealed message was received before")
            self._seen.add(record.replay_key)
        stamped_at_us, stamp = (None, None) if self.tsa_silent else self._stamp(record)
        until_us = self.clock.us + self.grace_us if record.received and stamp is None and self.grace_us else None
        self.kept.append(Kept(record, stamped_at_us, stamp, until_us))
        how = (", stamped" if stamp else ", provisional" if until_us else ", not stamped") if record.stamp_first else ""
        self.witness.append(f"{self.name} logs {record.direction}{how}")
        if record.stamp_first and stamp is None and until_us is None:
            raise NotStampedError("no time-stamping authority answers; the message was logged and not processed")
        answered = stamped_at_us if record.stamp_first else None
        return Appended(len(self.kept), self.clock.us, answered, until_us, self.accuracy_us)

    def fill(self) -> None:
        self.fails = LogFullError("the disk is full")

    def kill(self) -> None:
        self.fails = NeighbourAwayError("the recorder is away")

    def heal(self) -> None:
        self.fails, self.tsa_silent = None, False

    def messages(self, direction: str) -> list[Append]:
        return [one.record for one in self.kept if one.record.direction == direction]

    def _stamp(self, record: Append) -> tuple[int, bytes]:
        at_us = self.clock.us if self.stamp_at_us is None else self.stamp_at_us
        return at_us, self.stamper(xades.signature_value(record.seal.signature), at_us)

    def _check(self, record: Append) -> None:
        if record.stamp_first != record.received or (record.replay_key is not None) != record.received:
            raise RuntimeError("only received messages are stamped first and guarded against replay, and all of them are")
        if record.received and abs(self.clock.us - record.signed_at_us) > EVIDENCE_GAP_MAX_US:
            raise RuntimeError("a message that the guard has forgotten already")
        if (record.body is None) != (record.body_digest is None):
            raise RuntimeError("a body without its digest, or the other way round")
        if record.body is not None and hashlib.sha512(record.body).digest() != record.body_digest:
            raise RuntimeError("the body is not what its digest says")


@dataclass(frozen=True)
class Call:
    """What an information system saw."""

    service: str
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


@dataclass
class RecordingSystem:
    """The port `System`: remembers every call and gives the answer that was laid out."""

    witness: Witness
    answer: SystemAnswer
    fails: XacbeError | None = None
    calls: list[Call] = field(default_factory=list)

    async def call(
        self, service: Service, method: str, target: str, headers: Sequence[tuple[bytes, bytes]], body: Body | None
    ) -> SystemAnswer:
        self.witness.append(f"system sees {method} {target}")
        self.calls.append(Call(service.id, method, target, list(headers), body.inline if body else None))
        if self.fails is not None:
            raise self.fails
        return self.answer


@dataclass
class RecordingSoapSystem(RecordingSystem):
    """The same for SOAP: `soap` makes the answer to a message, or raises."""

    soap: Callable[[Sealed], SoapAnswer] | None = None
    messages: list[Sealed] = field(default_factory=list)

    async def ask(self, service: Service, request: Sealed) -> SoapAnswer:
        self.witness.append("system sees a SOAP message")
        self.messages.append(request)
        if self.soap is None:
            raise RuntimeError("no SOAP service was laid out")
        return self.soap(request)


class RecordingDesk:
    """Takes withdrawal notices; knows the messages that it is told to know."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.taken: list[tuple[str, str, list[str]]] = []

    async def take(self, sender: ClientId, receiver: ClientId, items: list[NoticeItem]) -> int:
        found = [item.query_id for item in items if item.query_id in self.known]
        if not found:
            raise NoticeUnknownError("none of them")
        self.taken.append((str(sender), str(receiver), found))
        return len(found)


class ReadyBody:
    """The port `BodySource`: a body that lies there; `asked` tells whether anybody wanted it."""

    def __init__(self, data: bytes | Body | None, during: Callable[[], None] = lambda: None) -> None:
        self._data, self._during, self.asked = data, during, False

    async def receive(self) -> Body | None:
        self.asked = True
        self._during()
        return body_of(self._data) if isinstance(self._data, bytes) else self._data


class ReadyMessage:
    """The port `SealedSource`: the rest of a message that lies there. `during`: what happens in the world while it comes."""

    def __init__(self, sealed: Sealed, during: Callable[[], None] = lambda: None) -> None:
        self._sealed, self._during, self.asked = sealed, during, False

    async def receive(self) -> Sealed:
        self.asked = True
        self._during()
        return self._sealed


@dataclass
class DirectPeers:
    """The port `Peers`: hands the message to a ProviderSide in the same process. Its refusal comes back as the fault that a box would read.

    `on_the_way` and `on_the_way_back` are the holder of the other box, or whoever sits in between, without TLS.
    """

    side: ProviderSide
    local: Callable[[], LocalView]
    peer: Callable[[], Peer]
    witness: Witness
    on_the_way: Callable[[Sealed], Sealed] = lambda sealed: sealed
    on_the_way_back: Callable[[Sealed], Sealed] = lambda sealed: sealed
    fails: XacbeError | None = None
    asked: list[tuple[SecurityServer, ...]] = field(default_factory=list)

    async def exchange(self, servers: Sequence[SecurityServer], provider: ClientId, request: Sealed, request_id: str) -> Sealed:
        self.asked.append(tuple(servers))
        if self.fails is not None:
            raise self.fails
        self.witness.append("message leaves")
        sealed = self.on_the_way(request)
        try:
            answer = await self.side.answer(_request(sealed, request_id), self.peer(), self.local, ReadyMessage(sealed))
        except XacbeError as error:
            soap = sealed.soap is not None
            told = faults.passed_on(error.fault) if isinstance(error, PeerFaultError) else _told(error, soap)
            fault = read_fault(faults.soap_fault(told))
            if fault is None:
                raise RuntimeError("a fault that is none") from error
            raise PeerFaultError(fault) from error
        self.witness.append("answer leaves")
        return self.on_the_way_back(answer)


def _told(error: XacbeError, soap: bool) -> faults.Fault:
    return faults.fault_of(error, faults.PROVIDER_SIDE, soap=soap)


def _request(sealed: Sealed, request_id: str) -> Request:
    if sealed.soap is not None:
        return parse_request(sealed.head, sealed.soap, request_id)
    head = parse_head(sealed.head)
    if not isinstance(head, RestRequest):
        raise RuntimeError("a request was turned into an answer: the relay's reader refuses that")
    return head


def body_of(data: bytes) -> Body:
    return Body(len(data), hashlib.sha512(data).digest(), inline=data)
