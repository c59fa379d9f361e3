"""Signature documents that came lately, each once: the messages of a batch share one digest, one record and one leaf.

Pure.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from appliance.messagelog.record import SignatureEntry
from appliance.messagelog.wire import Seal

KEPT_MAX = 256
"""Some 3 MB. A batch's messages come within seconds of each other."""


class RecentSignatures:
    """Bounded; the oldest goes first. What is not known any more is simply hashed, and stored, once more."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[bytes, bytes | None], SignatureEntry] = OrderedDict()
        self._by_digest: dict[bytes, SignatureEntry] = {}

    def entry(self, seal: Seal) -> SignatureEntry:
        """The seal's signature as a record, with its digest."""
        key = (seal.signature, seal.chain_result)
        found = self._entries.get(key)
        if found is not None:
            return found
        digest = hashlib.sha512(seal.signature).digest()
        entry = SignatureEntry(digest, seal.signature, seal.chain_result, seal.ocsp_produced_at_us, seal.ocsp_this_update_us)
        self._entries[key] = self._by_digest[digest] = entry
        if len(self._entries) > KEPT_MAX:
            _, oldest = self._entries.popitem(last=False)
            self._by_digest.pop(oldest.digest, None)
        return entry

    def document(self, digest: bytes) -> bytes | None:
        """The signature document with this digest, if it came lately."""
        found = self._by_digest.get(digest)
        return None if found is None else found.signature
