"""Signature documents that came lately, each once: the messages of a batch share one digest, one record and one leaf.

Pure.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from appliance.messagelog.groups import Signature
from appliance.messagelog.record import SignatureContent, SignatureEntry
from appliance.messagelog.wire import Seal

KEPT_MAX = 256
"""Some 3 MB. A batch's messages come within seconds of each other."""


class RecentSignatures:
    """Bounded; the oldest goes first. What is not known any more is simply hashed, and stored, once more."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[bytes, bytes | None], Signature] = OrderedDict()
        self._by_digest: dict[bytes, Signature] = {}

    def entry(self, seal: Seal) -> Signature:
        """The seal's signature as a record, with its digest."""
        key = (seal.signature, seal.chain_result)
        found = self._entries.get(key)
        if found is not None:
            return found
        digest = hashlib.sha512(seal.signature).digest()
        content = SignatureContent(seal.signature, seal.chain_result)
        entry = Signature(SignatureEntry(digest, seal.ocsp_produced_at_us, seal.ocsp_this_update_us), content)
        self._entries[key] = self._by_digest[digest] = entry
        if len(self._entries) > KEPT_MAX:
            _, oldest = self._entries.popitem(last=False)
            self._by_digest.pop(oldest.entry.digest, None)
        return entry

    def document(self, digest: bytes) -> bytes | None:
        """The signature document with this digest, if it came lately."""
        found = self._by_digest.get(digest)
        return None if found is None else found.content.signature
