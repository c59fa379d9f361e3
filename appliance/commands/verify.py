"""`xacbe verify FILE`: is this container evidence? A numbered checklist for people, JSON for programs; needs no running box and no network.

Trust material, one of: `--configuration DIR` (X-Road's local layout; with `--anchor FILE` the signed directory beside it is checked first),
`--ca`/`--tsa` PEM files, or the configuration of the box at `--state`. Exit codes: 0 valid, 1 invalid, 2 undecidable (trust material is
missing or unusable, or the file cannot be read).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from appliance.clock import to_us
from appliance.configuration_files import load_directory
from appliance.errors import UnavailableError, UnverifiedError
from appliance.model import certificates
from appliance.seal import report
from appliance.seal.container import CONTAINER_BYTES_MAX, read_container
from appliance.seal.report import Report, Step
from appliance.seal.sender import sender_of
from appliance.seal.verify import Configuration, verify_container
from appliance.texts import refusal, text
from appliance.trust.directory import DIRECTORY_BYTES_MAX, PartEntry
from appliance.trust.global_configuration import SHARED_BYTES_MAX, Anchor, ApprovedTsa, CaCertificate, SharedParameters, parse_anchor
from appliance.trust.trusted_configuration import ConfigurationAbsentError, TrustedConfiguration

HELP = "verify.help"
EXIT_CODES = {report.VALID: 0, report.INVALID: 1, report.UNDECIDABLE: 2}
BASIC_PROFILE = "ee.ria.xroad.common.certificateprofile.impl.BasicCertificateProfileInfoProvider"
OCSP_FRESHNESS_S = 8 * 3600
"""With `--ca`: what our instances publish, and all that the eight-hour rule leaves (IV.3.V)."""
_MARKS = {report.PASSED: "ok", report.FAILED: "NO", report.SKIPPED: "--", report.UNDECIDED: "??", report.NOT_REACHED: "  "}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SAFE_LOCATION = re.compile(r"/?(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class _Trust:
    """Trust material that did not come as a configuration directory."""

    instance: str
    shared: Mapping[str, SharedParameters]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=text("verify.file"))
    parser.add_argument("--configuration", type=Path, metavar="DIR", help=text("verify.configuration"))
    parser.add_argument("--anchor", type=Path, metavar="FILE", help=text("verify.anchor"))
    parser.add_argument("--ca", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.ca"))
    parser.add_argument("--tsa", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.tsa"))
    parser.add_argument("--at", type=_moment_us, metavar="TIME", help=text("verify.at"))
    parser.add_argument("--json", action="store_true", help=text("command.json"))


def run(arguments: argparse.Namespace) -> int:
    try:
        data = _read(arguments.file, CONTAINER_BYTES_MAX)
        configuration = _configuration(arguments, data)
    except (UnavailableError, UnverifiedError) as error:
        print(refusal(error.kind, str(error)), file=sys.stderr)
        return EXIT_CODES[report.UNDECIDABLE]
    found = verify_container(data, configuration, arguments.at)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1))
    else:
        print("\n".join(_lines(found)))
    return EXIT_CODES[found.verdict]


def _configuration(arguments: argparse.Namespace, data: bytes) -> Configuration | None:
    if arguments.ca or arguments.tsa:
        return _from_pem(arguments.ca, arguments.tsa, data)
    own = arguments.state / "trust" / "configuration"
    directory: Path | None = arguments.configuration or (own if own.is_dir() else None)
    if arguments.anchor is not None:
        anchor = parse_anchor(_read(arguments.anchor, DIRECTORY_BYTES_MAX))
        if directory is None:
            print(text("verify.anchor_alone", instance=anchor.instance, urls=" ".join(s.url for s in anchor.sources)), file=sys.stderr)
            return None
        return _under_anchor(anchor, directory)
    if directory is None:
        print(text("verify.no_material"), file=sys.stderr)
        return None
    return load_directory(directory)


def _from_pem(cas: Sequence[Path], tsas: Sequence[Path], data: bytes) -> _Trust:
    """One instance, the sender's, made of what was given: profile Basic, no members, no servers."""
    try:
        instance = sender_of(read_container(data).message).instance
    except UnverifiedError:
        instance = ""  # the container's own steps will say so
    authorities = [certificates.read_text(pem) for path in cas for pem in _pem_blocks(path)]
    stampers = [certificates.read_text(pem) for path in tsas for pem in _pem_blocks(path)]
    shared = SharedParameters(
        instance=instance,
        version=6,
        cas=tuple(CaCertificate(ca, ca.subject.public_bytes(), (), (), BASIC_PROFILE, top=True) for ca in authorities),
        tsas=tuple(ApprovedTsa(tsa.subject.rfc4514_string(), "", tsa) for tsa in stampers),
        members={},
        servers=(),
        groups={},
        ocsp_freshness_s=OCSP_FRESHNESS_S,
    )
    return _Trust(instance, {instance: shared})


def _pem_blocks(path: Path) -> list[bytes]:
    blocks = _PEM.findall(_read(path, DIRECTORY_BYTES_MAX))
    if not blocks:
        raise ConfigurationAbsentError(f"{path}: no PEM certificate")
    return blocks


def _under_anchor(anchor: Anchor, directory: Path) -> _Trust:
    """The configuration beside its signed directory, believed only as far as the anchor's keys signed it.

    The directory lies where it was downloaded (`internalconf`) or where a box keeps it (`directory/<instance>` beside `configuration/`).
    Expiry does not matter: the container is judged at the moment of its stamp.
    """
    roots = (directory, directory.parent)
    names = ("internalconf", "externalconf", f"directory/{quote(anchor.instance, safe='')}")
    place = next((root / name for root in roots for name in names if (root / name).is_file()), None)
    if place is None:
        raise ConfigurationAbsentError(
            f"{directory}: no signed directory of {anchor.instance} beside it; an anchor cannot judge unsigned files"
        )
    trusted = TrustedConfiguration(anchor, own=False)
    failure: UnverifiedError | None = None
    for source in anchor.sources:
        try:
            wanted = trusted.directory_received(_read(place, DIRECTORY_BYTES_MAX), source, now_us=0)
        except UnverifiedError as error:
            failure = error
            continue
        contents = {entry: content for entry in wanted if (content := _part(entry, roots)) is not None}
        return _Trust(anchor.instance, {anchor.instance: trusted.parts_received(contents).shared})
    raise failure or ConfigurationAbsentError("the anchor names no source")


def _part(entry: PartEntry, roots: Sequence[Path]) -> bytes | None:
    """The listed file, wherever a download or a box puts it; its digest is checked by who asked."""
    for path in _places(entry, roots):
        if path.is_file():
            content = _read(path, SHARED_BYTES_MAX)
            if hashlib.new(entry.digest_name, content).digest() == entry.digest:
                return content
    return None


def _places(entry: PartEntry, roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        yield root / "parts" / entry.digest.hex()
        if _SAFE_LOCATION.fullmatch(entry.location):
            segments = entry.location.strip("/").split("/")
            yield from (root.joinpath(*segments[skipped:]) for skipped in range(len(segments)))


def _lines(found: Report) -> Iterator[str]:
    for step in found.steps:
        yield f"{step.number:2} [{_MARKS[step.verdict]}] {text(f'verify.step.{step.name}')}{_told(step)}"
    for attachment in found.attachments:
        state = "stored" if attachment.stored and attachment.verified else "unverified" if attachment.stored else "not_stored"
        yield f"   {attachment.name}: {text(f'verify.attachment.{state}')} {attachment.digest[:32]}"
    yield ""
    yield text(f"verify.verdict.{found.verdict}") + (f": {_reason(found.reason)}" if found.reason else "")
    if found.xroad_code:
        yield text("verify.xroad_code", code=found.xroad_code)


def _told(step: Step) -> str:
    if step.reason:
        return f": {_reason(step.reason)}\n        ({step.detail})"
    return f": {' '.join(f'{name}={value}' for name, value in step.facts.items())}" if step.facts else ""


def _reason(kind: str) -> str:
    return f"{text(f'verify.reason.{kind}')} [{kind}]"


def _moment_us(value: str) -> int:
    """ISO 8601; UTC where no zone is given."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(text("verify.not_a_moment", value=value)) from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationAbsentError(f"{path}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise ConfigurationAbsentError(f"{path}: more than {bytes_max} bytes")
    return data
