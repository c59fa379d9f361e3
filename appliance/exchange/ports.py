"""What a conversation needs from the world: the seams between the two sides of an exchange and what carries out their decisions.

Pure. A conversation is an `async def` over these protocols and imports no I/O: the relay passes sockets, signer and recorder, a test or a
simulation passes working parts of its own and drives the coroutine on any loop, on virtual time if it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.access.rights import Service
from appliance.messagelog.wire import Append, Appended, Seal
from appliance.model.identifiers import ClientId
from appliance.net.soap_protocol import SoapFraming
from appliance.trust.global_configuration import SecurityServer, SharedParameters


class OpenFile(Protocol):
    """A file that is closed when nobody refers to it any more: an exchange can end in many ways, a descriptor must not survive any."""

    def fileno(self) -> int: ...

    def read(self, at: int, count: int, size: int) -> bytes:
        """Bytes `at` to `at + count` of a body of `size` bytes (blocking). The file itself holds no byte of it in clear."""
        ...


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attachment of a SOAP message: so many bytes of the body, from where the one before it ends."""

    size: int
    digest: bytes
    """SHA-512."""
    headers: bytes
    """Its part's headers as lines: passed on, not signed (as in X-Road)."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body that has been received completely: in memory, or in an unnamed file of the log. SOAP attachments lie in it one behind the
    other.
    """

    size: int
    digest: bytes
    """SHA-512."""
    inline: bytes | None = None
    file: int | None = None
    """The recorder's number of the file."""
    content: OpenFile | None = None
    attachments: tuple[Attachment, ...] = ()
    """Of SOAP: how the body is cut. Empty: a REST body."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the pieces that travel as parts of their own."""
        return tuple(one.size for one in self.attachments) or (self.size,)

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of the same pieces: what is sealed."""
        return tuple(one.digest for one in self.attachments) or (self.digest,)


def sealed_parts(head_digest: bytes, body: Body | None) -> list[tuple[str, bytes]]:
    """File names and digests of everything that a seal covers (sheet 4.2): the SOAP attachments, or the REST body as the first one."""
    digests = body.digests if body else ()
    return [("/message.xml", head_digest), *((f"/attachment{at}", digest) for at, digest in enumerate(digests, 1))]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message on its way between two boxes: what travels in the parts of one multipart message."""

    head: bytes
    body: Body | None
    seal: Seal
    replay_key: bytes | None = None
    """Of a message from a peer, once its seal is verified."""
    signed_at_us: int = 0
    soap: SoapFraming | None = None
    """What travels beside the parts of a SOAP message; None: REST."""


@dataclass(frozen=True, slots=True)
class SystemAnswer:
    """What the provider's information system said; header names and values as received."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: Body | None


@dataclass(frozen=True, slots=True)
class SoapAnswer:
    """A SOAP message as the provider's information system answered it: head and attachments as received."""

    head: bytes
    framing: SoapFraming
    body: Body | None


class BodySource(Protocol):
    """The rest of a message that is still arriving."""

    async def receive(self) -> Body | None:
        """The complete body; None where the message has none. Raises OversizedError, or UnavailableError when the sender stalls."""
        ...


class SealedSource(Protocol):
    """The rest of a peer's message after its head: body, chain and signature."""

    async def receive(self) -> Sealed: ...


class Sealer(Protocol):
    """Seals with a member's key; what waits while the token is busy shares one signature."""

    async def seal(self, member: ClientId, parts: Sequence[tuple[str, bytes]]) -> Seal:
        """`parts`: file name and SHA-512 of each part. Raises UnavailableError leaves (token, evidence)."""
        ...


class Log(Protocol):
    """The recorder, as a conversation sees it."""

    async def append(self, record: Append) -> Appended:
        """Returns when the record is durable, and stamped where `stamp_first`. Raises log.full, message.replayed, tsa.unreachable."""
        ...


class Peers(Protocol):
    """The way to other boxes."""

    async def exchange(self, servers: Sequence[SecurityServer], provider: ClientId, request: Sealed, request_id: str) -> Sealed:
        """Sends to the first server that answers and believes; returns its sealed answer. Raises PeerFaultError and peer.* leaves."""
        ...


class System(Protocol):
    """The way to a service of our own information systems."""

    async def call(
        self, service: Service, method: str, target: str, headers: Sequence[tuple[bytes, bytes]], body: Body | None
    ) -> SystemAnswer:
        """Raises service.unreachable, service.timeout, service.broken."""
        ...

    async def ask(self, service: Service, request: Sealed) -> SoapAnswer:
        """Delivers a SOAP message. Raises what `call` raises, service.answer_malformed, and PeerFaultError for a fault of the service."""
        ...


class Trust(Protocol):
    """The global configuration in force."""

    def shared(self, instance: str | None = None) -> SharedParameters:
        """Of our own instance (None), or of one that CEIQROO federates with (II.2.X). Raises ConfigurationExpiredError when our own is
        absent or has expired, InstanceUnknownError for an instance of which we hold none that is valid."""
        ...

    def instances(self) -> Sequence[SharedParameters]:
        """Every instance that is valid now, our own first. Raises ConfigurationExpiredError."""
        ...
