"""`xacbe status`: how the box is, what is wrong, and what to do about it, for the technician who stands before it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from appliance.clock import Clock, SystemClock, iso
from appliance.commands.verbs import catalogued, print_json, printable
from appliance.errors import UNREADABLE, XacbeError
from appliance.health.horizons import soonest
from appliance.hsm.wire import TokenStatus
from appliance.messagelog.wire import LogStatus
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.supervision.wire import BoxStatus, ProcessStatus
from appliance.texts import text
from appliance.topology import CONSOLE
from appliance.trust.wire import TrustStatus

HELP = "status.help"
WATCH_INTERVAL_S = 2.0
ASK_S_MAX = 3.0
_GOOD, _WARN, _BAD = "32", "33", "31"
_COLOURS = dict.fromkeys(("OPERATIONAL", "serving", "resting", "ready"), _GOOD)
_COLOURS |= dict.fromkeys(("AUTONOMOUS", "UNPROVISIONED", "waiting"), _WARN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help=text("status.watch"))
    parser.add_argument("--json", action="store_true", help=text("command.json"))


def run(arguments: argparse.Namespace) -> int:
    box = _Box(arguments.state)
    clock = SystemClock()
    while True:
        status = box.ask()
        if arguments.json:
            print_json(_document(*status, clock))
        else:
            page = _page(*status, clock, colours=sys.stdout.isatty())
            print(("\x1b[H\x1b[2J" if arguments.watch and sys.stdout.isatty() else "") + page, flush=True)
        if not arguments.watch:
            return 0
        time.sleep(WATCH_INTERVAL_S)


class _Box:
    """The four processes that are asked. The supervisor must answer; of the others the silence is shown."""

    def __init__(self, state: Path) -> None:
        owners = ("supervisor", "signer", "trust_agent", "recorder")
        self._ways = {owner: BlockingClient(channel_path(state, owner, CONSOLE), ASK_S_MAX) for owner in owners}

    def ask(self) -> tuple[BoxStatus, TokenStatus | None, TrustStatus | None, LogStatus | None]:
        status = self._ways["supervisor"].call("box_status", None, BoxStatus)
        token = self._maybe("signer", "token_status", TokenStatus)
        return status, token, self._maybe("trust_agent", "trust_status", TrustStatus), self._maybe("recorder", "log_status", LogStatus)

    def _maybe(self, owner: str, operation: str, answer: Any) -> Any:
        try:
            return self._ways[owner].call(operation, None, answer)
        except (XacbeError, *UNREADABLE):
            return None


def _document(box: BoxStatus, token: TokenStatus | None, trust: TrustStatus | None, log: LogStatus | None, clock: Clock) -> object:
    document = msgspec.structs.asdict(box)
    document["advice"] = [{"key": key, "text": text(key)} for key in box.advice]
    document["at"] = iso(clock.now_us())
    document["token"], document["log"] = token, log
    if trust is None:
        return document | {"trust": None}
    evidence = [{"certificate_sha256": one.certificate_sha256.hex(), "produced_at_us": one.produced_at_us} for one in trust.evidence]
    return document | {"trust": {"generation": trust.generation, "services": trust.services, "evidence": evidence}}


def _page(box: BoxStatus, token: TokenStatus | None, trust: TrustStatus | None, log: LogStatus | None, clock: Clock, colours: bool) -> str:
    now_us = clock.now_us()
    paint = _paint if colours else lambda word, state: word
    lines = [text("status.title", server=printable(box.server_id), version=printable(box.version)), ""]
    lines.append(text("status.state", state=paint(catalogued("state", box.state), box.state)))
    lines += [text("status.to_do"), *(f"  * {text(key)}" for key in box.advice)] if box.advice else [text("status.nothing_to_do")]
    lines += ["", text("status.processes"), *(f"  {_process(one, paint)}" for one in box.processes), ""]
    lines.append(_token(token, paint))
    lines += _autonomy(box, trust, now_us)
    lines += _log(log, now_us)
    return "\n".join(lines)


def _paint(word: str, state: str) -> str:
    return f"\x1b[{_COLOURS.get(state, _BAD)}m{word}\x1b[0m"


def _process(status: ProcessStatus, paint: Any) -> str:
    name = status.process if status.instance == 0 else f"{status.process}.{status.instance}"
    line = f"{printable(name):<14}{paint(text(f'process.{status.state}'), status.state)}"
    if status.waits_for:
        line += " " + text("status.waits_for", what=printable(", ".join(status.waits_for)))
    return line


def _token(token: TokenStatus | None, paint: Any) -> str:
    if token is None:
        return text("status.token_away")
    state = paint(catalogued("token_state", token.state), token.state)
    return text("status.token", state=state, label=printable(token.label), signatures=token.signatures)


def _autonomy(box: BoxStatus, trust: TrustStatus | None, now_us: int) -> list[str]:
    lines = []
    for key, ends in (("status.sealing", box.sealing_ends_us), ("status.configuration", box.configuration_expires_us)):
        left = text("status.unknown") if ends is None else text("status.ended") if ends <= now_us else duration((ends - now_us) / 1e6)
        lines.append(text(key, left=left))
    first = soonest(box.horizons)
    if first is not None and first.ends_us is not None:
        left = duration((first.ends_us - now_us) / 1e6)
        service = catalogued("autonomy.service", first.service)
        lines.append(text("status.autonomy", left=left, service=service, rule=printable(first.rule)))
    produced = [one.produced_at_us for one in trust.evidence] if trust is not None else []
    if produced:
        lines.append(text("status.ocsp", age=duration((now_us - min(produced)) / 1e6), count=len(produced)))
    failing = [one for one in trust.services if one.error] if trust is not None else []
    return lines + [f"  ! {printable(one.name)} {printable(one.url)}: {printable(one.error)}" for one in failing]


def _log(log: LogStatus | None, now_us: int) -> list[str]:
    if log is None:
        return [text("status.log_away")]
    stamped = text("status.never") if log.last_stamp_us is None else duration((now_us - log.last_stamp_us) / 1e6)
    first = text("status.log", records=log.records, free=f"{log.free_bytes / (1 << 30):.1f}")
    lines = [first, text("status.stamp", age=stamped, waiting=log.waiting_for_stamp)]
    return [*lines, text("status.notices", count=log.notices_due)] if log.notices_due else lines


def duration(seconds: float) -> str:
    """A length of time as a person says it: two units, the smaller rounded down."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
