"""A sealed message is accepted once: the guard against replays (T13).

Pure. A key is a digest over what the seal signs and the message's head (`exchange.evidence` makes it); it is remembered for eight hours
from the signed signing time, since an older seal does not come in at all. Nothing unsigned takes part: neither the OCSP response inside the
signature document nor its layout can make a known message look new. A client's retry is a new seal, hence another key.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

from appliance.errors import RefusedError, UnavailableError
from appliance.trust.autonomy import EVIDENCE_GAP_MAX_US

KEYS_MAX = 4_000_000
"""32 MB, at eight bytes a key; 139 received messages a second over eight hours. One more is refused, never forgotten."""
_BUCKET_US = 3600 * 1_000_000
_SHARD_BITS = 12
_SHARDS = 1 << _SHARD_BITS


class MessageReplayedError(RefusedError):
    """This very sealed message came before."""

    kind = "message.replayed"


class ReplayGuardFullError(UnavailableError):
    """More received messages than the guard can remember: refusing is the only safe answer."""

    kind = "log.replay_guard_full"


class ReplayGuard:
    """Remembers keys by the hour of their signing time. Invariant: a key is in at most one place, once.

    The signing time is signed, so equal keys have equal times: one bucket answers. 64 bits of each key are kept, in sorted
    arrays: among four million keys a stranger is mistaken for a known one in 2 of 10^13 cases, and is then refused, not believed.
    """

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._buckets: dict[int, dict[int, array[int]]] = {}
        self.size = 0

    def claim(self, key: bytes, signed_at_us: int, now_us: int) -> None:
        """Remembers the key. Raises MessageReplayedError where it is known, ReplayGuardFullError."""
        hour = signed_at_us // _BUCKET_US
        bucket = self._buckets.get(hour)
        if bucket is None:
            self._forget(now_us)
            bucket = self._buckets.setdefault(hour, {})
        short = int.from_bytes(key[:8], "big")
        shard = bucket.get(short >> (64 - _SHARD_BITS))
        if shard is None:
            shard = bucket[short >> (64 - _SHARD_BITS)] = array("Q")
        at = bisect_left(shard, short)
        if at < len(shard) and shard[at] == short:
            raise MessageReplayedError("this sealed message was received before")
        if self.size >= self._keys_max:
            raise ReplayGuardFullError(f"{self.size} messages are remembered already")
        shard.insert(at, short)
        self.size += 1

    def release(self, key: bytes, signed_at_us: int) -> None:
        """Forgets a key whose message was not logged after all."""
        short = int.from_bytes(key[:8], "big")
        shard = self._buckets.get(signed_at_us // _BUCKET_US, {}).get(short >> (64 - _SHARD_BITS))
        if shard is None:
            return
        at = bisect_left(shard, short)
        if at < len(shard) and shard[at] == short:
            del shard[at]
            self.size -= 1

    def _forget(self, now_us: int) -> None:
        """Hours whose seals are all more than eight hours old; they are refused for their age before anybody asks here."""
        for hour in [hour for hour in self._buckets if (hour + 1) * _BUCKET_US + EVIDENCE_GAP_MAX_US < now_us]:
            self.size -= sum(len(shard) for shard in self._buckets.pop(hour).values())
