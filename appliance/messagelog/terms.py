"""How long the content of each subsystem's messages is kept, and whether bodies are kept at all: `terms.json`.

Terms are set by `xacbe log retention`. Nothing is erased before its archive was confirmed, whatever the term (`custody`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance import durable
from appliance.errors import UNREADABLE, CorruptStateError, PeerProtocolError
from appliance.model.identifiers import ClientId, IdentifierError

FILE = "terms.json"
DAYS_MAX = 36_500
DEFAULT = ""
"""The name under which the terms of all other subsystems stand."""
SUBSYSTEMS_MAX = 1000
DAY_US = 86_400_000_000


class TermsMalformedError(PeerProtocolError):
    """Not terms of a subsystem."""

    kind = "terms.malformed"


class TermsCorruptError(CorruptStateError):
    """The file of terms cannot be read: nothing may be erased by guess."""

    kind = "terms.corrupt"


class Term(msgspec.Struct, frozen=True):
    """`days`: content is erased so long after it was logged and archived (X-Road: 30); 0: never. `bodies`: whether they are kept at all."""

    days: int = 30
    bodies: bool = True


class Terms:
    """The terms in force. One process reads and writes them."""

    def __init__(self, root: Path) -> None:
        """Raises TermsCorruptError."""
        self._file = root / FILE
        try:
            self.terms = msgspec.json.decode(self._file.read_bytes(), type=dict[str, Term])
        except FileNotFoundError:
            self.terms = {}
        except UNREADABLE as error:
            raise TermsCorruptError(f"{self._file}: {error}") from None

    def of(self, subsystem: str) -> Term:
        return self.terms.get(subsystem) or self.terms.get(DEFAULT) or Term()

    def erased_before_us(self, subsystem: str, now_us: int) -> int:
        """Content logged earlier than this is due; 0: none is."""
        days = self.of(subsystem).days
        return max(0, now_us - days * DAY_US) if days else 0

    def check(self, subsystem: str, term: Term | None) -> None:
        """Raises TermsMalformedError."""
        if subsystem != DEFAULT:
            try:
                ClientId.parse(subsystem)
            except IdentifierError as error:
                raise TermsMalformedError(str(error)) from None
        if term is not None and not 0 <= term.days <= DAYS_MAX:
            raise TermsMalformedError(f"days: 0 to {DAYS_MAX}")
        if subsystem not in self.terms and len(self.terms) >= SUBSYSTEMS_MAX:
            raise TermsMalformedError(f"terms of {SUBSYSTEMS_MAX} subsystems, no more")

    def put(self, subsystem: str, term: Term | None) -> None:
        """Durable before it is in force; None: as all others. Raises SyncFailedError."""
        changed = {name: each for name, each in self.terms.items() if name != subsystem} | ({subsystem: term} if term else {})
        durable.write_file(self._file, msgspec.json.format(msgspec.json.encode(changed)))
        self.terms = changed
