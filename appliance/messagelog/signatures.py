"""Signature documents that came lately, each once: the messages of a batch share one digest, one record and one leaf.

Pure.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from appliance.messagelog.groups import Signature
from appliance.messagelog.record import SignatureContent, SignatureEntry
from appliance.messagelog.sealing import Epoch
from appliance.messagelog.wire import Seal

KEPT_MAX = 256
"""Some 3 MB. A batch's messages come within seconds of each other."""


class RecentSignatures:
    """Bounded; the oldest goes first. What is not known any more is simply hashed, and stored, once more."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[bytes, bytes | None], Signature] = OrderedDict()
        self._documents: dict[bytes, bytes] = {}

    def entry(self, seal: Seal, epoch: Epoch) -> Signature:
        """The seal's signature as a record, with its digest; `epoch` seals it where it is new."""
        key = (seal.signature, seal.chain_result)
        found = self._entries.get(key)
        if found is not None:
            return found
        digest = hashlib.sha512(seal.signature).digest()
        content = SignatureContent(seal.signature, seal.chain_result)
        made = SignatureEntry(digest, seal.ocsp_produced_at_us, seal.ocsp_this_update_us, epoch.number)
        entry = self._entries[key] = Signature(made, seal.chain_result, epoch.seal_signature(content, digest))
        self._documents[digest] = seal.signature
        if len(self._entries) > KEPT_MAX:
            _, oldest = self._entries.popitem(last=False)
            self._documents.pop(oldest.entry.digest, None)
        return entry

    def document(self, digest: bytes) -> bytes | None:
        """The signature document with this digest, if it came lately."""
        return self._documents.get(digest)
