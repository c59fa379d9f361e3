"""`xacbe wire check FILE --configuration DIR [--at TIME] [--json]`: judges a captured message between boxes, and says what its parts are.

FILE is the body of the HTTP message: multipart, its first line the boundary. Needs no box. Exit codes: 0 valid, 1 invalid (a fault is no
sealed message either), 2 undecidable for lack of trust material. Judged is what a receiving box would judge of the bytes alone: access
rights, replay and the TLS connection are not in a capture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from appliance.clock import SystemClock, iso, to_us
from appliance.commands.verbs import printable
from appliance.configuration_files import LoadedConfiguration, load_directory
from appliance.errors import UnavailableError, UnverifiedError, XacbeError
from appliance.model.identifiers import ClientId
from appliance.net import faults
from appliance.net.message_protocol import RestRequest, RestResponse, digest_of, parse_head
from appliance.net.multipart import Header, MultipartMalformedError
from appliance.net.soap_reader import PeerFault, SoapHeader, read_header
from appliance.net.transport_parts import (
    CHAIN,
    CHAIN_RESULT,
    OCSP,
    REST_REQUEST,
    SIGNATURE,
    SOAP,
    TEXT_XML,
    BodyBegan,
    BodyData,
    BodyEnded,
    ChainPart,
    ChainResultPart,
    FaultPart,
    HeadPart,
    OcspPart,
    SealedMessage,
    SignaturePart,
    TransportEvent,
)
from appliance.net.transport_protocol import TransportReader
from appliance.seal.report import FAILED, INVALID, NOT_REACHED, PASSED, SKIPPED, UNDECIDABLE, UNDECIDED, VALID
from appliance.seal.verify import MessageParts, verify_message
from appliance.texts import text
from appliance.trust import ocsp
from appliance.trust.global_configuration import SharedParameters

HELP = "wire.help"
COARSE_BYTES, FINE_BYTES, FINE_UNTIL = 64 << 10, 16, 64 << 10
BOUNDARY_LINE_BYTES_MAX = 128
NO_CONFIGURATION, A_FAULT = "verify.no_configuration", "peer.fault"
_EXIT = {VALID: 0, INVALID: 1, UNDECIDABLE: 2}
_STEPS = ("parts", "head", "ocsp", "seal")
_TYPES: dict[type[TransportEvent], tuple[str, str]] = {
    OcspPart: ("ocsp", OCSP),
    ChainResultPart: ("chain_result", CHAIN_RESULT),
    ChainPart: ("chain", CHAIN),
    SignaturePart: ("signature", SIGNATURE),
    FaultPart: ("fault", TEXT_XML),
}


@dataclass(slots=True)
class Judgement:
    """What `wire check` prints. `reason` is our kind, `xroad_code` the code without the prefix of a server."""

    verdict: str = VALID
    reason: str | None = None
    xroad_code: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    fault: dict[str, str] | None = None

    def step(self, verdict: str, reason: str | None = None, detail: str = "", **facts: str) -> None:
        code = faults.code_of(reason) if reason and reason != NO_CONFIGURATION else None
        number = len(self.steps)
        step = {"number": number, "name": _STEPS[number], "verdict": verdict, "reason": reason, "xroad_code": code}
        self.steps.append({**step, "detail": detail, "facts": facts})
        if verdict in (FAILED, UNDECIDED):
            self.verdict, self.reason, self.xroad_code = INVALID if verdict == FAILED else UNDECIDABLE, reason, code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser("check", help=text("wire.check"))
    check.add_argument("file", type=Path, help=text("wire.file"))
    check.add_argument("--configuration", type=Path, required=True, metavar="DIR", help=text("wire.configuration"))
    check.add_argument("--at", type=_moment_us, metavar="TIME", help=text("wire.at"))
    check.add_argument("--json", action="store_true", help=text("command.json"))


def run(arguments: argparse.Namespace) -> int:
    at_us = SystemClock().now_us() if arguments.at is None else arguments.at
    try:
        configuration = load_directory(arguments.configuration)
    except (UnavailableError, UnverifiedError):
        configuration = None
    try:
        with arguments.file.open("rb") as file:
            judgement = judge(_pieces(file), configuration, at_us)
    except OSError as error:
        print(f"{arguments.file}: {error.strerror}", file=sys.stderr)
        return _EXIT[UNDECIDABLE]
    if arguments.json:
        print(json.dumps({name: getattr(judgement, name) for name in Judgement.__slots__}, ensure_ascii=False))
    else:
        _print(judgement)
    return _EXIT[judgement.verdict]


def judge(pieces: Iterable[bytes], configuration: LoadedConfiguration | None, at_us: int) -> Judgement:
    """Judges a message. Never raises for what is inside it. Steps: 0 parts and their order, 1 head, 2 OCSP parts, 3 the seal."""
    judgement = Judgement()
    try:
        _judge(judgement, pieces, configuration, at_us)
    except XacbeError as error:
        judgement.step(FAILED, error.kind, str(error))
    while len(judgement.steps) < len(_STEPS):
        judgement.step(NOT_REACHED)
    return judgement


def _judge(judgement: Judgement, pieces: Iterable[bytes], configuration: LoadedConfiguration | None, at_us: int) -> None:
    message = _read(judgement, pieces)
    if isinstance(message, FaultPart):
        _judge_fault(judgement, message.fault)
        return
    judgement.step(PASSED)
    facts = parse_head(message.head.data) if message.head.kind != SOAP else read_header(message.head.data)
    sender = _sender(facts)
    judgement.step(PASSED, **_facts(facts))
    shared = configuration.shared.get(sender.instance) if configuration is not None else None
    _judge_ocsp(judgement, message, shared, at_us)
    if shared is None:
        judgement.step(UNDECIDED, NO_CONFIGURATION, f"no global configuration of {sender.instance}")
        return
    parts = MessageParts(message.head.digest, message.attachment_digests)
    seal = verify_message(parts, message.signature, message.chain_result, message.chain, sender, shared, at_us)
    for attachment in judgement.attachments:
        attachment["verified"] = True
    judgement.step(
        PASSED,
        signer=str(seal.member),
        ocsp_produced_at=iso(seal.ocsp.produced_at_us),
        ocsp_this_update=iso(seal.ocsp.this_update_us),
    )


def _judge_fault(judgement: Judgement, fault: PeerFault) -> None:
    judgement.fault = {"code": fault.code, "message": fault.message, "detail": fault.detail}
    judgement.step(FAILED, A_FAULT, f"{fault.code}: {fault.message}")
    judgement.xroad_code = fault.code


def _judge_ocsp(judgement: Judgement, message: SealedMessage, shared: SharedParameters | None, at_us: int) -> None:
    """What came must be genuine. Whose certificate it confirms, and whether in time, a box judges with the TLS connection: shown here."""
    if not message.head.ocsp:
        # A provider refuses such a request with ssl_authentication_failed: that is no defect of the message itself.
        judgement.step(SKIPPED, detail="no OCSP response for the sender's TLS certificate" if message.head.kind == REST_REQUEST else "")
        return
    found = [ocsp.facts(one) if shared is None else ocsp.check_genuine(one, shared, at_us) for one in message.head.ocsp]
    judgement.step(SKIPPED if shared is None else PASSED, this_update=iso(found[0].this_update_us), status=found[0].status)


def _read(judgement: Judgement, pieces: Iterable[bytes]) -> SealedMessage | FaultPart:
    source = iter(pieces)
    first = next(source, b"")
    line, end, _ = first[:BOUNDARY_LINE_BYTES_MAX].partition(b"\n")
    if not end or not line.startswith(b"--"):
        raise MultipartMalformedError("the first line is not a boundary")
    reader = TransportReader(line[2:].rstrip())
    for piece in itertools.chain((first,), source):
        for event in reader.feed(piece):
            _note(judgement, event)
    return reader.finish()


def _note(judgement: Judgement, event: TransportEvent) -> None:
    """One entry for each part; a body gets its size and digest when it ends."""
    if isinstance(event, HeadPart):
        _add_part(judgement, "head", _type_of(event.headers), event.data)
    elif isinstance(event, BodyBegan):
        _add_part(judgement, "attachment", _type_of(event.headers), b"", name=f"/attachment{event.number}")
    elif isinstance(event, BodyEnded):
        part = judgement.parts[-1]
        part["bytes"], part["sha512"] = event.size, event.digest.hex()
        digest = {"stored": True, "verified": False, "digest": event.digest.hex()}
        judgement.attachments.append({"name": part["facts"]["name"], **digest})
    elif not isinstance(event, BodyData):
        _add_part(judgement, *_TYPES[type(event)], event.data)


def _add_part(judgement: Judgement, what: str, content_type: str, data: bytes, **facts: str) -> None:
    part = {"number": len(judgement.parts) + 1, "what": what, "type": content_type, "bytes": len(data), "sha512": digest_of(data).hex()}
    judgement.parts.append({**part, "facts": facts})


def _type_of(headers: Iterable[Header]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name.lower() == b"content-type"), "")


def _sender(facts: RestRequest | RestResponse | SoapHeader) -> ClientId:
    """Whose seal it must be: the client's, or in an answer the provider's."""
    if isinstance(facts, RestResponse):
        return facts.service.provider
    return facts.sender if isinstance(facts, SoapHeader) else facts.client


def _facts(facts: RestRequest | RestResponse | SoapHeader) -> dict[str, str]:
    said = {"client": str(facts.client), "service": str(facts.service), "id": facts.query_id, "sender": str(_sender(facts))}
    if isinstance(facts, RestRequest):
        return {"message": "request", "method": facts.method, "target": facts.target, "request_id": facts.request_id, **said}
    if isinstance(facts, RestResponse):
        return {"message": "response", "status": str(facts.status), "request_id": facts.request_id, **said}
    return {"message": "response" if facts.is_response else "request", "body": facts.body_name, **said}


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Small pieces at first, so that the parts in front of a broken one are shown."""
    yield file.read(BOUNDARY_LINE_BYTES_MAX)
    done = 0
    while piece := file.read(FINE_BYTES if done < FINE_UNTIL else COARSE_BYTES):
        done += len(piece)
        yield piece


def _moment_us(spelled: str) -> int:
    try:
        moment = datetime.fromisoformat(spelled)
    except ValueError:
        raise argparse.ArgumentTypeError(text("verify.not_a_moment", value=spelled)) from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _print(judgement: Judgement) -> None:
    for part in judgement.parts:
        what = text(f"wire.part.{part['what']}")
        facts = "  ".join((part["type"], *part["facts"].values()))
        _line(f"{part['number']:3}  {what:38} {part['bytes']:>10} B  {part['sha512'][:16]}  {facts}")
    for step in judgement.steps:
        facts = "  ".join(f"{name}={value}" for name, value in step["facts"].items())
        reason = " ".join(filter(None, (step["reason"], step["detail"])))
        _line(f"({step['number']}) {text('wire.step.' + step['name']):42} {text('wire.' + step['verdict'])}  {reason}{facts}")
    _line(text(f"wire.verdict.{judgement.verdict}") + (f"  {judgement.reason}" if judgement.reason else ""))
    if judgement.xroad_code:
        _line(f"X-Road: {judgement.xroad_code}")


def _line(line: str) -> None:
    """Prints a line in which a stranger's text cannot move the cursor or colour the terminal."""
    print(printable(line).rstrip())
