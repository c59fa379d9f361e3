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
from appliance.trust.global_configuration import SecurityServer, SharedParameters


class OpenFile(Protocol):
    """A file that is closed when nobody refers to it any more: an exchange can end in many ways, a descriptor must not survive any."""

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Body:
    """A body that has been received completely: in memory, or in an unnamed file of the log."""

    size: int
    digest: bytes
    """SHA-512."""
    inline: bytes | None = None
    file: int | None = None
    """The recorder's number of the file."""
    content: OpenFile | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message on its way between two boxes: what travels in the parts of one multipart message."""

    head: bytes
    body: Body | None
    seal: Seal
    replay_key: bytes | None = None
    """Of a message from a peer, once its seal is verified."""
    signed_at_us: int = 0


@dataclass(frozen=True, slots=True)
class SystemAnswer:
    """What the provider's information system said; header names and values as received."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
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


class Trust(Protocol):
    """The global configuration in force."""

    def shared(self, instance: str | None = None) -> SharedParameters:
        """Of our own instance (None), or of one that CEIQROO federates with (II.2.X). Raises ConfigurationExpiredError when our own is
        absent or has expired, InstanceUnknownError for an instance of which we hold none that is valid."""
        ...

    def instances(self) -> Sequence[SharedParameters]:
        """Every instance that is valid now, our own first. Raises ConfigurationExpiredError."""
        ...
