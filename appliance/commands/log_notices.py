"""`xacbe log notices`: messages that were withdrawn because their stamp came too late or never, and who has been told (IV.3.VI)."""

from __future__ import annotations

import argparse

from appliance.clock import iso
from appliance.commands.verbs import print_json, print_table, printable
from appliance.messagelog.wire import NOTICE_DELIVERED, ListNotices, NoticeSummary
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import TEXTS, text
from appliance.topology import CONSOLE

COLUMNS = ("sequence", "since", "origin", "direction", "query_id", "system", "peer")
READ_S_MAX = 60.0


def run(arguments: argparse.Namespace) -> int:
    """Newest first."""
    client = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), READ_S_MAX)
    found: list[NoticeSummary] = client.call("list_notices", ListNotices(arguments.limit), list[NoticeSummary])
    if arguments.json:
        print_json([_facts(one) for one in found])
    else:
        print_table([text(f"log.notice.{name}") for name in COLUMNS], [_row(one) for one in found], "log.notices_none")
    return 0


def _facts(summary: NoticeSummary) -> dict[str, object]:
    item = summary.item
    return {
        "sequence": item.message,
        "unconfirmed": item.origin,
        "since": iso(item.since_us),
        "query_id": item.query_id,
        "request_id": item.request_id,
        "direction": item.direction,
        "side": item.side,
        "client": item.client,
        "service": item.service,
        "at": iso(item.at_us),
        "system": {"told_at": None if summary.system_us is None else iso(summary.system_us), "word": summary.system},
        "peer": {"told_at": None if summary.peer_us is None else iso(summary.peer_us), "word": summary.peer},
    }


def _row(summary: NoticeSummary) -> list[str]:
    item = summary.item
    return [
        str(item.message),
        iso(item.since_us),
        text(f"log.origin.{item.origin}"),
        text(f"log.direction.{item.direction}"),
        item.query_id,
        _told(summary.system_us, summary.system),
        _told(summary.peer_us, summary.peer),
    ]


def _told(at_us: int | None, word: str) -> str:
    if at_us is None:
        return text("log.notice_waits_why", word=_meaning(word)) if word else text("log.notice_waits")
    return text("log.notice_told", at=iso(at_us)) if word == NOTICE_DELIVERED else text("log.notice_refused", word=_meaning(word))


def _meaning(kind: str) -> str:
    key = f"kind.{kind}"
    return text(key) if key in TEXTS else printable(kind)
