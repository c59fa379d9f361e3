"""Who holds the connections of one listener, and who gives one up when there is no room for another.

Pure. A bound alone shuts everybody out as soon as a few addresses have filled it with connections that say nothing: seen with four of
them. So a newcomer takes the place of a connection in which no request is under way, of an address that holds more than his does: the
address that holds most gives first, and of its connections the oldest. Who floods displaces himself; who talks is never displaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

LOOKED_AT_MAX = 512
"""Connections that are looked at for one that may go: an address has at most 256 with a message under way (`relay.gates`)."""


class Guest(Protocol):
    """A connection."""

    @property
    def idle(self) -> bool:
        """No request is under way: a handshake that is not over, a request's head that is not complete, or silence between requests, the
        last answer taken."""
        ...


Held = TypeVar("Held", bound=Guest)


class Crowd(Generic[Held]):
    """Connections by address, each address's oldest first. Invariant: every address with connections stands once, under their number."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Held, None]] = {}
        self._by_number: dict[int, dict[str, None]] = {}
        self._count = self._most = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Held]:
        return (guest for guests in self._held.values() for guest in guests)

    def number_of(self, address: str) -> int:
        return len(self._held.get(address, ()))

    def enter(self, address: str, guest: Held) -> None:
        """`guest` is here, which it was not."""
        guests = self._held.setdefault(address, {})
        guests[guest] = None
        self._count += 1
        self._moved(address, len(guests) - 1, len(guests))

    def leave(self, address: str, guest: Held) -> bool:
        """`guest` has gone; False where it had left before."""
        guests = self._held.get(address, {})
        if guest not in guests:
            return False
        del guests[guest]
        if not guests:
            del self._held[address]
        self._count -= 1
        self._moved(address, len(guests) + 1, len(guests))
        return True

    def yields_to(self, address: str) -> tuple[str, Held] | None:
        """Whose place a newcomer of this address may take: address and connection, which has not left yet."""
        looked_at, number = 0, self._most
        while number > self.number_of(address):
            for other in self._by_number.get(number, ()):
                for guest in self._held[other]:
                    if guest.idle:
                        return other, guest
                    looked_at += 1
                    if looked_at == LOOKED_AT_MAX:
                        return None
            number -= 1
        return None

    def _moved(self, address: str, before: int, after: int) -> None:
        if before:
            same = self._by_number[before]
            del same[address]
            if not same:
                del self._by_number[before]
        if after:
            self._by_number.setdefault(after, {})[address] = None
        if after > self._most:
            self._most = after
        elif before == self._most and before not in self._by_number:
            self._most = after
