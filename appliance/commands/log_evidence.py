"""`xacbe log prove|check|audit|compare|report`: what the log proves, whether it is whole, what another lacks of it, who asked for whom.

`check` needs no box; `audit` reads the files of a log, the box's own or a copy. Exit codes: 0 holds, 1 does not, 2 undecidable.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from appliance import durable
from appliance.clock import iso, to_us
from appliance.commands.verbs import UnreadableError, add_verb, certificates, print_json, print_table, printable, read_file
from appliance.configuration_files import load_directory
from appliance.errors import UNREADABLE, RefusedError, UnverifiedError, XacbeError
from appliance.messagelog import inspection, proof, reconciliation
from appliance.messagelog.checkpoint import read_checkpoint
from appliance.messagelog.inspection import Findings, Trust
from appliance.messagelog.record import ENTRIES, BrokenLinkError
from appliance.messagelog.wire import ExchangeGroup, ProveRecord, ReportExchanges
from appliance.model import certificates as model_certificates
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import refusal, text
from appliance.topology import CONSOLE
from appliance.trust.global_configuration import ApprovedTsa

ASK_S_MAX = 60.0
BAR_WIDTH = 40
EXIT_CODES = {inspection.INTACT: 0, inspection.TAMPERED: 1, inspection.UNDECIDED: 2}


class NoTrustError(RefusedError):
    """A proof is checked under certificates of CEIQROO: none were given."""

    kind = "log.no_trust"


def add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, metavar="TEXT", help=text("log.reason"))


def add_arguments(verbs: Any) -> None:
    prove = add_verb(verbs, "prove", "log.prove")
    prove.add_argument("record", type=int, metavar="SEQUENCE", help=text("log.sequence"))
    prove.add_argument("--out", type=Path, metavar="FILE", help=text("log.proof_out"))
    add_reason(prove)
    check = add_verb(verbs, "check", "log.check")
    check.add_argument("file", type=Path, metavar="FILE", help=text("log.proof_file"))
    audit = add_verb(verbs, "audit", "log.audit")
    audit.add_argument("--log", type=Path, metavar="DIR", help=text("log.audit_log"))
    for parser in (check, audit):
        parser.add_argument("--ca", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.ca"))
        parser.add_argument("--configuration", type=Path, metavar="DIR", help=text("verify.configuration"))
    audit.add_argument("--tsa", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.tsa"))
    compare = add_verb(verbs, "compare", "log.compare")
    compare.add_argument("other", type=Path, metavar="DIR", help=text("log.compare_other"))
    compare.add_argument("--log", type=Path, metavar="DIR", help=text("log.audit_log"))
    report = add_verb(verbs, "report", "log.report")
    report.add_argument("--from", dest="since", type=moment_us, required=True, metavar="TIME", help=text("log.since"))
    report.add_argument("--to", dest="until", type=moment_us, required=True, metavar="TIME", help=text("log.until"))
    report.add_argument("--represented-party", default="", help=text("log.represented_party"))
    add_reason(report)


def run(arguments: argparse.Namespace) -> int:
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "prove": _prove,
        "check": _check,
        "audit": _audit,
        "compare": _compare,
        "report": _report,
    }
    return verbs[arguments.verb](arguments)


def moment_us(written: str) -> int:
    """ISO 8601; without a zone it is this machine's."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise argparse.ArgumentTypeError(text("log.bad_time", written=printable(written))) from None
    return to_us(moment if moment.tzinfo is not None else moment.astimezone())


# -- proofs


def _prove(arguments: argparse.Namespace) -> int:
    client = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), ASK_S_MAX)
    data: bytes = client.call("prove_record", ProveRecord(arguments.record, arguments.reason), bytes)
    made = proof.read(data)
    signed = read_checkpoint(made.note)
    if arguments.out is not None:
        durable.write_file(arguments.out.absolute(), data, 0o644)
    if arguments.json:
        facts = {"sequence": made.sequence, "records": signed.size, "root": signed.root.hex(), "at": iso(signed.at_us)}
        path = [each.hex() for each in made.path]
        print_json({**facts, "origin": signed.origin, "path": path, "file": str(arguments.out or ""), "proof": data.decode()})
    elif arguments.out is not None:
        print(text("log.proved", sequence=made.sequence, records=signed.size, file=arguments.out))
    else:
        sys.stdout.write(data.decode())
    return 0


def _check(arguments: argparse.Namespace) -> int:
    issuers = _trust(arguments).issuers
    if not issuers:
        print(refusal(NoTrustError.kind, text("verify.no_material")), file=sys.stderr)
        return EXIT_CODES[inspection.UNDECIDED]
    try:
        data = read_file(arguments.file)
        given = proof.read(data)
        key = proof.trusted_key(given.certificate, read_checkpoint(given.note).origin, issuers)
        shown = proof.check(data, [key])
    except UnverifiedError as error:
        if arguments.json:
            print_json({"verdict": "invalid", "reason": error.kind, "detail": str(error)})
        else:
            print(refusal(error.kind, str(error)), file=sys.stderr)
        return 1
    facts: dict[str, Any] = {
        "verdict": "valid",
        "server": shown.checkpoint.server,
        "sequence": shown.sequence,
        "type": ENTRIES[shown.kind].__name__.removesuffix("Entry").lower() if shown.kind in ENTRIES else str(shown.kind),
        "at": iso(shown.at_us),
        "records": shown.checkpoint.size,
        "checkpoint_at": iso(shown.checkpoint.at_us),
        "content_sha256": None if shown.content_digest is None else shown.content_digest.hex(),
        "entry": None if shown.entry is None else msgspec.structs.asdict(shown.entry),
    }
    if arguments.json:
        print_json(facts)
        return 0
    print(text("verify.verdict.valid"))
    for name, value in facts.items():
        if name not in ("verdict", "entry"):
            print(f"  {name:16} {printable(value)}")
    return 0


# -- the whole log


def _audit(arguments: argparse.Namespace) -> int:
    """As whoever may read the files: in the box that is root. It shows no message, only whether they are unchanged."""
    root = arguments.log or arguments.state / "log"
    bar = _Bar() if sys.stderr.isatty() and not arguments.json else None
    try:
        found = inspection.inspect(root, _trust(arguments), bar.show if bar is not None else lambda done, total: None)
    except OSError as error:
        return _unreadable(error)
    finally:
        if bar is not None:
            bar.clear()
    if arguments.json:
        print_json({"verdict": found.verdict, **_findings(found)})
    else:
        _print_findings(found)
    return EXIT_CODES[found.verdict]


def _findings(found: Findings) -> dict[str, Any]:
    names = (
        "records",
        "segments",
        "bytes",
        "checkpoints",
        "stamps",
        "contents_cut",
        "bodies",
        "bodies_erased",
        "tail_bytes",
        "covered",
        "stamped",
        "counter",
        "origin",
    )
    facts = {name: getattr(found, name) for name in names}
    facts["stamped_at"] = None if found.stamped_at_us is None else iso(found.stamped_at_us)
    bad = found.bad
    facts["first_bad"] = (
        None if bad is None else {name: getattr(bad, name) for name in ("step", "sequence", "segment", "offset", "why", "after")}
    )
    facts["undecided"] = found.undecided
    return facts


def _print_findings(found: Findings) -> None:
    print(text(f"log.verdict.{found.verdict}"))
    for name, value in _findings(found).items():
        if name not in ("first_bad", "undecided") and value not in (None, ""):
            print(f"  {text(f'log.audit.{name}'):36} {printable(value)}")
    for step in found.undecided:
        print(f"  {text(f'log.undecided.{step}')}")
    if found.bad is not None:
        bad = found.bad
        print(text("log.first_bad", sequence=bad.sequence, why=printable(bad.why), after=bad.after))


def _compare(arguments: argparse.Namespace) -> int:
    """As whoever may read the files of both. Exit codes: 0 nothing was taken out, 1 something was, 2 nothing to compare or to read."""
    bar = _Bar() if sys.stderr.isatty() and not arguments.json else None
    try:
        own = arguments.log or arguments.state / "log"
        found = reconciliation.compare(own, arguments.other, bar.show if bar is not None else lambda done, total: None)
    except OSError as error:
        return _unreadable(error)
    except (BrokenLinkError, *UNREADABLE) as error:
        print(refusal(BrokenLinkError.kind, str(error)), file=sys.stderr)
        return EXIT_CODES[inspection.UNDECIDED]
    finally:
        if bar is not None:
            bar.clear()
    sides = dict(zip(("other_lacks", "own_lacks"), found, strict=True))
    if arguments.json:
        print_json({side: asdict(gaps) for side, gaps in sides.items()})
    else:
        for side, gaps in sides.items():
            counts = {"compared": gaps.compared, "missing": gaps.missing_count, "unreceived": gaps.unreceived_count}
            print(text(f"log.compare.{side}", **counts))
            for name, rows in (("missing", gaps.missing), ("unreceived", gaps.unreceived)):
                for one in rows:
                    parties = f"{one.direction:8}  {printable(one.client)} -> {printable(one.service)}"
                    print(f"  {text(f'log.compare.{name}'):12} {one.sequence:10}  {iso(one.at_us)}  {parties}")
    if not any(gaps.compared for gaps in found):
        return EXIT_CODES[inspection.UNDECIDED]
    return 1 if any(gaps.missing_count for gaps in found) else 0


def _unreadable(error: OSError) -> int:
    """A log that cannot be read is no log that was changed: 1 would say so."""
    print(refusal(UnreadableError.kind, f"{error.filename or ''}: {error.strerror}"), file=sys.stderr)
    return EXIT_CODES[inspection.UNDECIDED]


class _Bar:
    """Progress on the terminal's error stream."""

    def show(self, done: int, total: int) -> None:
        filled = BAR_WIDTH * done // max(total, 1)
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * done // max(total, 1)} %")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write(f"\r{' ' * (BAR_WIDTH + 8)}\r")


def _trust(arguments: argparse.Namespace) -> Trust:
    """From PEM files, a configuration directory, or the configuration of the box at `--state`; nothing where there is none."""
    tsa_files: Sequence[Path] = getattr(arguments, "tsa", [])
    if arguments.ca or tsa_files:
        issuers = [x509.load_der_x509_certificate(der) for der in certificates(arguments.ca)]
        tsas = [model_certificates.read(der) for der in certificates(list(tsa_files))]
        return Trust(issuers, [ApprovedTsa(tsa.subject.rfc4514_string(), "", tsa) for tsa in tsas])
    directory: Path = arguments.configuration or arguments.state / "trust" / "configuration"
    if not directory.is_dir() or not os.access(directory, os.R_OK):
        return Trust()
    try:
        loaded = load_directory(directory)
    except XacbeError as error:
        print(refusal(error.kind, str(error)), file=sys.stderr)
        return Trust()
    own = loaded.shared[loaded.instance]
    return Trust([ca.certificate for ca in own.cas], own.tsas)


# -- who asked for whom


def _report(arguments: argparse.Namespace) -> int:
    client = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), ASK_S_MAX)
    wanted = ReportExchanges(arguments.since, arguments.until, arguments.represented_party, arguments.reason)
    found: list[ExchangeGroup] = client.call("report_exchanges", wanted, list[ExchangeGroup])
    rows = [{**msgspec.structs.asdict(one), "first_us": iso(one.first_us), "last_us": iso(one.last_us)} for one in found]
    if arguments.json:
        print_json([{name.removesuffix("_us"): value for name, value in row.items()} for row in rows])
        return 0
    heads = [
        text(f"log.report.{name}") for name in ("represented_party", "end_user", "client", "service", "side", "requests", "first", "last")
    ]
    print_table(heads, [["-" if value is None else str(value) for value in row.values()] for row in rows], "log.none")
    return 0
