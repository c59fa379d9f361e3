"""What an information system may ask of the log over HTTP: the signed documents of its own messages (`/asic`).

Pure. Sheet 2.8, UG-SIGDOC: parameters, file names and statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from appliance.errors import PeerProtocolError, RefusedError, UnavailableError
from appliance.messagelog.wire import REQUEST, RESPONSE, RecordSummary
from appliance.model.identifiers import PART_CHARACTERS_MAX, ClientId, IdentifierError

ASICE_TYPE, ZIP_TYPE = b"application/vnd.etsi.asic-e+zip", b"application/zip"
PARAMETERS_MAX = 32
NONCE_CHARACTERS = 10
"""Of the random part of a document's name: messages may share an id."""
_CLIENT = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")
_FLAGS = ("requestOnly", "responseOnly", "unique", "force")
_STATUSES = {
    "asic.request": 400,
    "asic.ambiguous": 400,
    "log.too_many_documents": 400,
    "identifier.malformed": 400,
    "access.authentication": 401,
    "asic.not_found": 404,
    "log.downloads_off": 404,
    "log.content_erased": 404,
    "log.unknown_record": 404,
    "relay.busy": 503,
}


class DocumentRequestError(PeerProtocolError):
    """A parameter is missing, doubled or contradicts another."""

    kind = "asic.request"


class AmbiguousError(RefusedError):
    """One document was asked for, and there are several."""

    kind = "asic.ambiguous"


class NotFoundError(RefusedError):
    """The client has no such messages in this log."""

    kind = "asic.not_found"


class NotStampedYetError(UnavailableError):
    """A document has no time stamp: it would not be evidence."""

    kind = "asic.not_stamped"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One question. `direction`: REQUEST, RESPONSE, or empty for both."""

    client: ClientId
    query_id: str
    direction: str
    unique: bool
    force: bool

    @property
    def archive_name(self) -> str:
        return f"{self._stem(self.direction)}.zip"

    def document_name(self, direction: str, nonce: str) -> str:
        return f"{self._stem(direction)}-{nonce}.asice"

    def _stem(self, direction: str) -> str:
        return quote(self.query_id, safe="") + (f"-{direction}" if direction else "")


def parse(query: str) -> Wanted:
    """Raises DocumentRequestError, IdentifierError."""
    try:
        given = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise DocumentRequestError("the parameters cannot be read") from None
    doubled = [name for name in ("queryId", *_CLIENT, *_FLAGS) if len(given.get(name, [])) > 1]
    if doubled:
        raise DocumentRequestError(f"{doubled[0]} is there twice")
    one = {name: values[0] for name, values in given.items()}
    missing = [name for name in ("queryId", *_CLIENT[:3]) if not one.get(name)]
    if missing:
        raise DocumentRequestError(f"{missing[0]} is missing")
    if len(one["queryId"]) > PART_CHARACTERS_MAX:
        raise DocumentRequestError("queryId is too long")
    if "requestOnly" in one and "responseOnly" in one:
        raise DocumentRequestError("requestOnly and responseOnly exclude each other")
    direction = REQUEST if "requestOnly" in one else RESPONSE if "responseOnly" in one else ""
    if "unique" in one and not direction:
        raise DocumentRequestError("unique needs requestOnly or responseOnly")
    try:
        client = ClientId.of([one[name] for name in _CLIENT if name in one])
    except IdentifierError as error:
        raise DocumentRequestError(str(error)) from None
    return Wanted(client, one["queryId"], direction, "unique" in one, "force" in one)


def check_found(wanted: Wanted, found: Sequence[RecordSummary]) -> None:
    """Whether these may be given out. Raises NotFoundError, AmbiguousError, NotStampedYetError."""
    if not found:
        raise NotFoundError("no signed documents were found")
    if wanted.unique and len(found) > 1:
        raise AmbiguousError(f"{len(found)} signed documents were found, unique asks for one")
    if any(one.stamped_at_us is None for one in found):
        if wanted.force:
            raise NotStampedYetError("no time stamp could be had")
        several = "Message signature has" if wanted.unique else "Some message signatures have"
        raise NotStampedYetError(f"{several} not been timestamped yet!")


def status_of(kind: str) -> int:
    """Of the answer to a question that failed for a reason of this kind."""
    return _STATUSES.get(kind, 500)
