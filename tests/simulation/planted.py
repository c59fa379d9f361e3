"""One bug for each invariant, put into the product (or under it) for one run: the simulator has to find them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from appliance.access.rights import Decision, RightsTable
from appliance.errors import UnverifiedError
from appliance.exchange import client_side, evidence, provider_side
from appliance.messagelog.segments import segment_path
from appliance.messagelog.stamping import StampQueue, Waiting
from appliance.messagelog.store import Store
from appliance.messagelog.wire import Seal
from tests.simulation.world import World

Bug = Callable[[World], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _instead(place: Any, name: str, other: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, other)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextlib.contextmanager
def lying_disk(world: World) -> Iterator[None]:
    """I1: a sync does nothing and says that it did."""
    for box in world.boxes.values():
        box.platter.lies = True
    yield


@contextlib.contextmanager
def believed_all(world: World) -> Iterator[None]:
    """I2: what does not verify is taken all the same."""

    def believing(sealed: Any, head_digest: bytes, sender: Any, shared: Any, at_us: int) -> Any:
        try:
            return evidence.verified(sealed, head_digest, sender, shared, at_us)
        except UnverifiedError:
            seal = Seal(sealed.seal.signature, sealed.seal.chain_result, sealed.seal.chain, at_us, at_us)
            return replace(sealed, seal=seal, replay_key=hashlib.sha512(head_digest).digest(), signed_at_us=at_us)

    with _instead(provider_side, "verified", believing), _instead(client_side, "verified", believing):
        yield


@contextlib.contextmanager
def rotated_log(world: World) -> Iterator[None]:
    """I3: a segment that is full is removed when the next one begins."""
    usual = Store._segment_for

    def rotating(store: Store, size: int) -> Any:
        before = store._current
        found = usual(store, size)
        if before is not None and before is not found:
            store._disk.remove(segment_path(before.first_sequence))
        return found

    with _instead(Store, "_segment_for", rotating):
        yield


@contextlib.contextmanager
def any_stamp(world: World) -> Iterator[None]:
    """I4: a stamp is a stamp, whenever it was made; no deadline ends the wait for one."""

    def unchecked(*times: int) -> None:
        return

    fits, missed = _instead(Waiting, "fit", lambda waiting, reply: 0), _instead(StampQueue, "_missed", lambda queue, now: [])
    with fits, missed, _instead(evidence, "check_evidence_gap", unchecked):
        yield


@contextlib.contextmanager
def asked_once(world: World) -> Iterator[None]:
    """I5: a time-stamping authority that failed is never asked again."""
    usual = StampQueue._due_s
    with _instead(StampQueue, "_due_s", lambda queue: float("inf") if queue._failures else usual(queue)):
        yield


@contextlib.contextmanager
def one_right_opens_all(world: World) -> Iterator[None]:
    """I6: who may use one service of a provider may use them all."""

    def decide(table: RightsTable, client: Any, service_id: str, method: str, path: str) -> Decision:
        return Decision(True, str(client))

    with _instead(RightsTable, "decide", decide):
        yield


BUGS: dict[str, Bug] = {
    "I1": lying_disk,
    "I2": believed_all,
    "I3": rotated_log,
    "I4": any_stamp,
    "I5": asked_once,
    "I6": one_right_opens_all,
}
