"""`xacbe log`: the message log for a person: what was exchanged, and any message as a container that others can verify.

Reading is a right (`xacbe account`): each read is itself recorded, with who and why, before anything is shown (IV.2.III.B).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance import durable
from appliance.clock import iso
from appliance.commands import log_evidence, log_notices, log_retention
from appliance.commands.log_evidence import add_reason, moment_us
from appliance.commands.verbs import add_verb
from appliance.errors import RefusedError
from appliance.messagelog.containers import container_of
from appliance.messagelog.index import UNCONFIRMED_STATE
from appliance.messagelog.stream import BodyCipher
from appliance.messagelog.wire import WAIT_S_MAX, AuditRecord, ListAudits, ListRecords, ReadRecord, RecordContent, RecordSummary
from appliance.net.local_client import BlockingClient, LocalClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "log.help"
LIST_DEFAULT, LIST_MAX = 50, 1_000_000
PAGE_MAX = 1000
"""Records in one answer of the recorder (`messagelog.index`)."""
READ_S_MAX = 60.0
_SEQUENCE_DIGITS_MAX = 18
COLUMNS = ("sequence", "at", "state", "side", "direction", "bytes", "query_id", "between")


class NotStampedYetError(RefusedError):
    """The record has no time stamp yet: a container of it would prove nothing (sheet 5.6)."""

    kind = "log.not_stamped"


class NoSuchRecordError(RefusedError):
    """Nothing in the log by that number or id."""

    kind = "log.unknown_record"


@dataclass(frozen=True, slots=True)
class _Read:
    content: RecordContent
    body: bytes | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    log_retention.add_arguments(verbs)
    for name in ("list", "find"):  # two words for one thing
        listing = add_verb(verbs, name, "log.list")
        listing.add_argument("--id", default="", help=text("log.id"))
        listing.add_argument("--client", default="", help=text("log.client"))
        listing.add_argument("--service", default="", help=text("log.service"))
        listing.add_argument("--represented-party", default="", help=text("log.represented_party"))
        listing.add_argument("--since", type=moment_us, default=0, metavar="TIME", help=text("log.since"))
        listing.add_argument("--until", type=moment_us, default=0, metavar="TIME", help=text("log.until"))
        listing.add_argument("--limit", type=_limit, default=LIST_DEFAULT, metavar="N", help=text("log.limit", max=LIST_MAX))
        listing.add_argument("--unconfirmed", action="store_true", help=text("log.unconfirmed"))
        add_reason(listing)
    for name in ("acts", "notices"):
        newest = add_verb(verbs, name, f"log.{name}")
        newest.add_argument(
            "--limit", type=int, default=LIST_DEFAULT, choices=range(1, PAGE_MAX + 1), metavar="N", help=text("log.audit_limit")
        )
    show, export = add_verb(verbs, "show", "log.show"), add_verb(verbs, "export", "log.export")
    for verb in (show, export):
        verb.add_argument("record", metavar="SEQUENCE|ID", help=text("log.record"))
        direction = verb.add_mutually_exclusive_group()
        direction.add_argument("--request", dest="direction", action="store_const", const="request", help=text("log.request"))
        direction.add_argument("--response", dest="direction", action="store_const", const="response", help=text("log.response"))
        add_reason(verb)
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help=text("log.out"))
    export.add_argument("--wait", type=float, default=0.0, metavar="S", help=text("log.wait"))
    log_evidence.add_arguments(verbs)


def run(arguments: argparse.Namespace) -> int:
    match arguments.verb:
        case "list" | "find":
            return _list(arguments)
        case "show":
            return _show(arguments)
        case "acts":
            return _acts(arguments)
        case "notices":
            return log_notices.run(arguments)
        case "retention":
            return log_retention.run(arguments)
        case "export":
            return _export(arguments)
        case _:
            return log_evidence.run(arguments)


def _list(arguments: argparse.Namespace) -> int:
    found = _listed(arguments)
    if arguments.json:
        print(json.dumps([_facts(record) for record in found], ensure_ascii=False, indent=1))
        return 0
    if not found:
        print(text("log.none"))
        return 0
    print(_columns(*(text(f"log.head.{name}") for name in COLUMNS)))
    for record in found:
        print(_line(record))
    return 0


def _acts(arguments: argparse.Namespace) -> int:
    """Acts and refusals, newest first. It shows no content of messages, so that reading it is no act of its own; the role is needed."""
    client = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), READ_S_MAX)
    found: list[AuditRecord] = client.call("list_audits", ListAudits(arguments.limit), list[AuditRecord])
    if arguments.json:
        records = [{"sequence": one.sequence, "at": iso(one.at_us), "event": one.event, "caller": one.caller, **one.facts} for one in found]
        print(json.dumps(records, ensure_ascii=False, indent=1))
        return 0
    for one in found:
        facts = "  ".join(f"{name}={value}" for name, value in one.facts.items())
        print(_printable(f"{one.sequence:>8}  {iso(one.at_us)}  {one.event:28} {one.caller:12} {facts}"))
    return 0


def _listed(arguments: argparse.Namespace) -> list[RecordSummary]:
    """Newest first, page by page: each goes on where the last one ended."""
    found: list[RecordSummary] = []
    until_us, before = arguments.until, 0
    while len(found) < arguments.limit:
        limit = min(arguments.limit - len(found), PAGE_MAX)
        filters = {"client": arguments.client, "service": arguments.service, "represented_party": arguments.represented_party}
        state = UNCONFIRMED_STATE if arguments.unconfirmed else ""
        span = {"since_us": arguments.since, "until_us": until_us, "before": before}
        page = _search(arguments.state, ListRecords(limit, arguments.id, state=state, reason=arguments.reason, **filters, **span))
        found += page
        if len(page) < limit:
            break
        until_us, before = page[-1].at_us, page[-1].sequence
    return found


def _show(arguments: argparse.Namespace) -> int:
    read = _read(arguments, _chosen(arguments))
    content, facts = read.content, _facts(read.content.summary)
    if arguments.json:
        print(json.dumps(facts | _content_facts(read), ensure_ascii=False, indent=1))
        return 0
    facts |= {name: text(f"log.{name}.{facts[name]}") for name in ("side", "direction", "state")} | {"body_bytes": len(read.body or b"")}
    for name, value in facts.items():
        print(f"{text(f'log.field.{name}'):20} {_printable(str(value)) if value is not None else '-'}")
    print()
    print(_printable(content.message.decode("utf-8", "replace"), lines=True))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Refuses while the record has no stamp; `--wait` gives the authority time first."""
    record = _chosen(arguments)
    if record.stamped_at_us is None and arguments.wait <= 0:
        raise _not_stamped(record)
    read = _read(arguments, record)
    if read.content.stamp_token is None:
        raise _not_stamped(read.content.summary)
    durable.write_file(arguments.out.absolute(), container_of(read.content, read.body))
    if arguments.json:
        print(json.dumps({"sequence": record.sequence, "file": str(arguments.out)}))
    else:
        print(text("log.exported", sequence=record.sequence, file=arguments.out))
    return 0


def _not_stamped(record: RecordSummary) -> NotStampedYetError:
    return NotStampedYetError(text("log.not_stamped", sequence=record.sequence, state=text(f"log.state.{record.state}")))


# -- asking the recorder


def _search(state: Path, wanted: ListRecords) -> list[RecordSummary]:
    client = BlockingClient(channel_path(state, "recorder", CONSOLE))
    try:
        found: list[RecordSummary] = client.call("list_records", wanted, list[RecordSummary])
    finally:
        client.close()
    return found


def _chosen(arguments: argparse.Namespace) -> RecordSummary:
    """By number, or the newest by query id (of one direction, where a query left both). Raises NoSuchRecordError."""
    wanted: str = arguments.record
    if wanted.isascii() and wanted.isdecimal() and len(wanted) <= _SEQUENCE_DIGITS_MAX:
        asked = ListRecords(1, sequence=int(wanted), reason=arguments.reason)
    else:
        asked = ListRecords(query_id=wanted, reason=arguments.reason)
    found = _search(arguments.state, asked)
    if not asked.sequence:
        found = [each for each in found if arguments.direction in (None, each.direction)]
    if not found:
        raise NoSuchRecordError(text("log.no_such", record=_printable(wanted)))
    # without a direction: the request, which is what was asked
    return next((each for each in found if each.direction == "request"), found[0])


def _read(arguments: argparse.Namespace, record: RecordSummary) -> _Read:
    wait_s = min(WAIT_S_MAX, max(0.0, getattr(arguments, "wait", 0.0)))
    return asyncio.run(_read_record(arguments.state, ReadRecord(record.sequence, arguments.reason, arguments.verb, wait_s)))


async def _read_record(state: Path, wanted: ReadRecord) -> _Read:
    """The answer always brings a descriptor: of the body's file, or of nothing."""
    client = LocalClient(channel_path(state, "recorder", CONSOLE))
    try:
        content, descriptor = await client.call_for_descriptor("read_record", wanted, RecordContent, READ_S_MAX + wanted.wait_s)
    finally:
        client.close()
    with os.fdopen(descriptor, "rb") as file:
        if not content.body_in_descriptor or content.body_key is None:
            return _Read(content, content.body)
        return _Read(content, BodyCipher(content.body_key).open(file.read(), 0, size=content.body_bytes))


# -- printing


def _facts(record: RecordSummary) -> dict[str, object]:
    facts = {name: getattr(record, name) for name in msgspec.structs.asdict(record)}
    facts["at"] = iso(facts.pop("at_us"))
    stamped_at_us = facts.pop("stamped_at_us")
    facts["stamped_at"] = None if stamped_at_us is None else iso(stamped_at_us)
    return facts


def _content_facts(read: _Read) -> dict[str, object]:
    content, seal = read.content, read.content.seal
    documents = {
        "message": content.message,
        "body": read.body,
        "signature": seal.signature,
        "chain_result": seal.chain_result,
        "chain": seal.chain,
        "stamp_token": content.stamp_token,
        "stamp_chain_result": content.ts_chain_result,
        "stamp_chain": content.ts_chain,
    }
    encoded = {name: None if data is None else base64.b64encode(data).decode() for name, data in documents.items()}
    return {"ocsp_produced_at": iso(seal.ocsp_produced_at_us), "base64": encoded}


def _line(record: RecordSummary) -> str:
    return _columns(
        str(record.sequence),
        iso(record.at_us),
        text(f"log.state.{record.state}"),
        text(f"log.side.{record.side}"),
        text(f"log.direction.{record.direction}"),
        str(record.bytes),
        _printable(record.query_id),
        f"{_printable(record.client)} -> {_printable(record.service)}",
    )


def _columns(sequence: str, at: str, state: str, side: str, direction: str, size: str, query_id: str, between: str) -> str:
    return f"{sequence:>10}  {at:<24}  {state:<13} {side:<10} {direction:<10} {size:>9}  {query_id:<36}  {between}"


def _printable(written: str, *, lines: bool = False) -> str:
    """Names come from outside: nothing of them may move a terminal's cursor."""
    return "".join(c if c.isprintable() or (lines and c == "\n") else ("" if c == "\r" and lines else "\ufffd") for c in written)


def _limit(written: str) -> int:
    if not (written.isascii() and written.isdecimal() and len(written) <= _SEQUENCE_DIGITS_MAX and 1 <= int(written) <= LIST_MAX):
        raise argparse.ArgumentTypeError(text("log.bad_limit", written=_printable(written), max=LIST_MAX))
    return int(written)
