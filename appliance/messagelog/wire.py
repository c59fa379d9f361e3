"""What the other processes say to the recorder.

Pure. Operations (callers: `appliance.topology`): `open_body`, `drop_body`, `append`, `audit`, `log_status`; for persons `list_records`,
`list_audits`, `read_record`, `prove_record`, `report_exchanges`, which need a role and a reason (`messagelog.readers`); for owners
`find_own`, `read_own` (`own_reading`); for withdrawal notices `due_notices`, `notices_told`, `take_notices`, `list_notices`.
"""

from __future__ import annotations

import msgspec

CLIENT, PROVIDER = "client", "provider"
REQUEST, RESPONSE = "request", "response"


class Seal(msgspec.Struct, array_like=True):
    """The seal of one message, as received or made: bytes that are kept and exported verbatim."""

    signature: bytes
    """META-INF/signatures.xml."""
    chain_result: bytes | None
    chain: bytes | None
    ocsp_produced_at_us: int
    """`producedAt` of the OCSP response of the signing certificate inside the signature: the eight-hour rule counts from it."""
    ocsp_this_update_us: int


class OpenBody(msgspec.Struct, array_like=True):
    """`open_body` answers BodyFile with a descriptor: an unnamed file in `log/`, read-write for the relay."""

    bytes_expected: int | None


class BodyFile(msgspec.Struct, array_like=True):
    """`key` seals this body alone (`messagelog.stream`); the file holds sealed chunks, never the body."""

    body: int
    key: bytes


class DropBody(msgspec.Struct, array_like=True):
    """`drop_body`: no message will name this body. An unknown number is no error: it was claimed or given up already."""

    body: int


class Append(msgspec.Struct, array_like=True):
    """`append`: one sealed message. Answered by Appended only when it is durable (and stamped, where `stamp_first`)."""

    side: str
    """CLIENT or PROVIDER: which of our two roles logged it."""
    direction: str
    """REQUEST or RESPONSE."""
    received: bool
    """Came from the peer (it is stamped before delivery and guarded against replay) or was made here."""
    query_id: str
    request_id: str
    client: str
    service: str
    represented_party: str | None
    message: bytes
    """The REST head or SOAP part: /message.xml."""
    body: bytes | None
    """A body up to the relay's inline limit; None where there is none or it lies in a file."""
    body_file: int | None
    """BodyFile.body of a body that the relay has written completely."""
    body_bytes: int
    body_digest: bytes | None
    """SHA-512 of the body part; None where the message has no body part."""
    seal: Seal
    stamp_first: bool
    """The eight-hour rule before delivery: answer only with the time stamp."""
    replay_key: bytes | None = None
    """Of a received message: SHA-512 over what its seal signs and its head (`exchange.evidence`); accepted once."""
    signed_at_us: int = 0
    """The signed SigningTime of a received message: how long its replay key must be remembered counts from here."""
    attachment_bytes: list[int] = []
    """How the body is cut into SOAP attachments; empty: it is one part."""
    end_user: str | None = None
    """Who asked, as the information system says (X-Road-UserId)."""


class Appended(msgspec.Struct, array_like=True):
    """The record is durable. `stamped_at_us` is the time stamp's genTime; None where it is provisional or not waited for."""

    sequence: int
    at_us: int
    stamped_at_us: int | None
    provisional_until_us: int | None
    accuracy_us: int = 0
    """The stated accuracy of the time stamp: it counts against the seal (IV.3.V)."""


class Audit(msgspec.Struct, array_like=True):
    """`audit`: an act or refusal, durable when answered. `facts` are short strings without content of messages."""

    event: str
    """Past tense with a dot: `access.refused`, `key.generated`."""
    facts: dict[str, str]


class ListAudits(msgspec.Struct, array_like=True):
    """`list_audits`: the newest acts and refusals, at most `limit` (1 to 1000)."""

    limit: int = 50


class AuditRecord(msgspec.Struct, array_like=True):
    """One act or refusal as it was recorded; `caller` is the channel that told it."""

    sequence: int
    at_us: int
    event: str
    caller: str
    facts: dict[str, str]


class ListRecords(msgspec.Struct, array_like=True):
    """`list_records`: newest first; any filter may be empty. The reason is audited (IV.2.III.B)."""

    limit: int = 50
    query_id: str = ""
    client: str = ""
    service: str = ""
    since_us: int = 0
    until_us: int = 0
    sequence: int = 0
    """One record by its number."""
    state: str = ""
    """Only those in this state."""
    represented_party: str = ""
    reason: str = ""
    before: int = 0
    """With `until_us`: of the records of that very moment only those with a lower number, for the next page."""


class RecordSummary(msgspec.Struct, array_like=True):
    """A message of the log without its content. `state`: `stamped`, `waiting`, `provisional`, `unconfirmed`."""

    sequence: int
    at_us: int
    side: str
    direction: str
    query_id: str
    request_id: str
    client: str
    service: str
    bytes: int
    state: str
    stamped_at_us: int | None
    represented_party: str | None
    end_user: str | None = None


class NoticeItem(msgspec.Struct, array_like=True):
    """One message whose record could not be confirmed. `message`: its sequence in the log that tells of it."""

    message: int
    origin: str
    """`ours`: our own record of it; `theirs`: the other side's."""
    query_id: str
    request_id: str
    direction: str
    side: str
    client: str
    service: str
    at_us: int
    """When it was logged."""
    since_us: int
    """When it could no longer be confirmed."""


class DueNotice(msgspec.Struct, array_like=True):
    """Notices that one receiver shall have now: `to` is SYSTEM (ours) or PEER (the other side's box)."""

    to: str
    ours: str
    """Our subsystem in these exchanges."""
    other: str
    """The other side's."""
    items: list[NoticeItem]


class NoticesTold(msgspec.Struct, array_like=True):
    """`notices_told`: what became of a DueNotice. `word`: NOTICE_DELIVERED, or a kind; `final`: it is not tried again."""

    notice: DueNotice
    word: str
    final: bool


class TakeNotices(msgspec.Struct, array_like=True):
    """`take_notices`: a peer withdraws. `sender`: the subsystem whose seal the notice bears. Answered by how many of them we know."""

    sender: str
    receiver: str
    items: list[NoticeItem]


class NoticesKnown(msgspec.Struct, array_like=True):
    known: int


class ListNotices(msgspec.Struct, array_like=True):
    """`list_notices`: newest first, at most `limit` (1 to 1000)."""

    limit: int = 50


class NoticeSummary(msgspec.Struct, array_like=True):
    """`list_notices`: `system`, `peer`: since when told (None: not yet), with the word or the last kind of failure."""

    item: NoticeItem
    system_us: int | None
    system: str
    peer_us: int | None
    peer: str


SYSTEM, PEER, NOTICE_DELIVERED = "system", "peer", "delivered"
NOTICE_CODE = "xacbeNotice"
"""The service of every subsystem on a box of ours that takes withdrawal notices of other boxes."""


class ReadRecord(msgspec.Struct, array_like=True):
    """`read_record`: one record whole, for export; the reason is audited (IV.2.III.B)."""

    sequence: int
    reason: str
    act: str = "show"
    """`show` or `export`, for the audit record."""
    wait_s: float = 0.0
    """How long to wait for its time stamp, at most WAIT_S_MAX."""


WAIT_S_MAX = 60.0


class FindOwn(msgspec.Struct, array_like=True):
    """`find_own`: what our `subsystem` sent or received under this message id, as RecordSummary without names, at most OWN_MAX. It waits
    up to `wait_s` (WAIT_S_MAX) for their time stamps.
    """

    subsystem: str
    query_id: str
    direction: str = ""
    """REQUEST or RESPONSE; empty: both."""
    wait_s: float = 0.0


class ReadOwn(msgspec.Struct, array_like=True):
    """`read_own`: one of these whole, answered as `read_record`. `address`, `certificate` (DER): whence the system asks, for the audit."""

    sequence: int
    subsystem: str
    query_id: str
    address: str
    certificate: bytes = b""


OWN_MAX = 100
"""Messages in one download: an id is meant to be unique, and a client's own."""


class ProveRecord(msgspec.Struct, array_like=True):
    """`prove_record`: answered with the proof's file (`messagelog.proof`), over the newest checkpoint; one is made where none covers it."""

    sequence: int
    reason: str


class ReportExchanges(msgspec.Struct, array_like=True):
    """`report_exchanges`: how many requests passed, without content (IV.6.IV). Moments are inclusive; 0: no end."""

    since_us: int
    until_us: int
    represented_party: str
    reason: str


class ExchangeGroup(msgspec.Struct, array_like=True):
    """The requests of one end user for one represented party, from one client to one service."""

    represented_party: str | None
    end_user: str | None
    client: str
    service: str
    side: str
    requests: int
    first_us: int
    last_us: int


class RecordContent(msgspec.Struct, array_like=True):
    """Everything a container needs. A body beyond one frame comes as the answer's descriptor (`body_in_descriptor`), sealed."""

    summary: RecordSummary
    message: bytes
    body: bytes | None
    body_in_descriptor: bool
    seal: Seal
    stamp_token: bytes | None
    """RFC 3161 token, DER; single form: over the SignatureValue bytes (`ts_chain_result` is None)."""
    ts_chain_result: bytes | None
    ts_chain: bytes | None
    body_key: bytes | None = None
    """Opens the body in the descriptor (`messagelog.stream`)."""
    body_bytes: int = 0
    attachment_bytes: list[int] = []
    """How the body is cut into SOAP attachments; empty: it is one part."""


class LogStatus(msgspec.Struct, array_like=True):
    records: int
    last_sequence: int
    segments: int
    bytes: int
    free_bytes: int
    waiting_for_stamp: int
    oldest_waiting_us: int | None
    last_stamp_us: int | None
    repaired_bytes: int
    """Torn tail cut off at the last start."""
    state: str
    """`open`, `full`."""
    checkpoint: str = ""
    """The newest signed checkpoint (`messagelog.checkpoint`); empty before the first."""
    checkpoint_proof: str = ""
    """That it continues the one before (`merkle.proof_text`); empty where that is not known any more."""
    outage_since_us: int | None = None
    """Since when every time-stamping authority is silent; None: they answer."""
    grace_ends_us: int | None = None
    """Until when received messages are delivered without a stamp, if the authorities are silent or fell silent now."""
    full_us: int | None = None
    """When the disk will be full at the pace of the last day; None: it does not fill."""
    notices_due: int = 0
    """Withdrawal notices that somebody has not got yet."""
