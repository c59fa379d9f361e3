"""Who may shake hands now.

Pure. A handshake costs memory, CPU and a signature of a slow token, so only so many run at once. One address gets a share of them at
most, waiting addresses take turns, and a peer that keeps us waiting in the middle loses its place as soon as somebody else wants it:
otherwise a few hundred silent connections would shut out everybody for the whole handshake limit (measured: 11.5 s). Its address then
has one place and comes after all others, for a minute: with that a good peer waits for nobody under a flood from twenty addresses
(0.5 s before).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, Protocol, TypeVar

STALLED_S_MAX = 1.0
"""A peer's turn may last so long while others wait. Their network is slower than that on no good day."""
SHARE = 4
"""One address holds at most 1/SHARE of the places."""
REMEMBERED_S = 60.0
"""How long an address has a single place after it kept others waiting: a bad line is a bad line for longer, and gets in all the same."""
REMEMBERED_MAX = 4096


class Shaker(Protocol):
    """A connection that wants to shake hands."""

    @property
    def address(self) -> str: ...
    @property
    def waits_for_peer(self) -> bool: ...


Guest = TypeVar("Guest", bound=Shaker)


class HandshakeGate(Generic[Guest]):
    """Invariant: at most `places` inside, at most a share of them from one address; who enters leaves, or was waiting and left."""

    def __init__(self, places: int) -> None:
        self._places, self._share = places, max(1, places // SHARE)
        self._inside: dict[Guest, float] = {}
        self._inside_by_address: Counter[str] = Counter()
        self._waiting: dict[str, deque[Guest]] = {}
        """By address, in the order of their turns. Bounded by the listener's bound on connections."""
        self._slow_until_s: dict[str, float] = {}

    @property
    def inside(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def enter(self, guest: Guest, now_s: float) -> list[Guest]:
        """Who may shake hands now: `guest`, or nobody yet."""
        self._waiting.setdefault(guest.address, deque()).append(guest)
        return self._admit(now_s)

    def leave(self, guest: Guest, now_s: float) -> list[Guest]:
        """`guest` is through, or has given up; who may go on instead."""
        if self._inside.pop(guest, None) is not None:
            self._inside_by_address[guest.address] -= 1
            if not self._inside_by_address[guest.address]:
                del self._inside_by_address[guest.address]
            return self._admit(now_s)
        queue = self._waiting.get(guest.address)
        if queue is not None and guest in queue:
            queue.remove(guest)
            if not queue:
                del self._waiting[guest.address]
        return []

    def stalled(self, now_s: float) -> list[Guest]:
        """Who must go because others wait: those inside that have kept us waiting, oldest first, at most one for each waiting."""
        if not self._waiting:
            return []
        late = [guest for guest, since_s in self._inside.items() if guest.waits_for_peer and now_s - since_s > STALLED_S_MAX]
        late = late[: self.waiting]
        for guest in late:
            if len(self._slow_until_s) >= REMEMBERED_MAX:
                self._slow_until_s.clear()
            self._slow_until_s[guest.address] = now_s + REMEMBERED_S
        return late

    def _is_slow(self, address: str, now_s: float) -> bool:
        return self._slow_until_s.get(address, now_s) > now_s

    def _admit(self, now_s: float) -> list[Guest]:
        admitted: list[Guest] = []
        if len(self._inside) >= self._places:
            return admitted
        slow = {address: self._is_slow(address, now_s) for address in self._waiting}
        for address in sorted(slow, key=slow.__getitem__):  # a stable order: who was slow comes last, otherwise by turns
            if len(self._inside) >= self._places:
                break
            if self._inside_by_address[address] >= (1 if slow[address] else self._share):
                continue
            queue = self._waiting.pop(address)
            guest = queue.popleft()
            if queue:
                self._waiting[address] = queue  # behind all others
            self._inside[guest] = now_s
            self._inside_by_address[address] += 1
            admitted.append(guest)
        return admitted
