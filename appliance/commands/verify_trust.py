"""Trust material for `xacbe verify`: an anchor with what it signed, a configuration directory, certificates, or the box's own.

Read once, whatever number of containers is judged by it. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography import x509

from appliance.configuration_files import load_directory
from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.seal.container import read_container
from appliance.seal.container_check import Configuration
from appliance.seal.sender import sender_of
from appliance.texts import text
from appliance.trust.directory import DIRECTORY_BYTES_MAX, PartEntry
from appliance.trust.global_configuration import SHARED_BYTES_MAX, Anchor, ApprovedTsa, CaCertificate, SharedParameters, parse_anchor
from appliance.trust.trusted_configuration import ConfigurationAbsentError, TrustedConfiguration

BASIC_PROFILE = "ee.ria.xroad.common.certificateprofile.impl.BasicCertificateProfileInfoProvider"
OCSP_FRESHNESS_S = 8 * 3600
"""With `--ca`: what our instances publish, and all that the eight-hour rule leaves (IV.3.V)."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SAFE_LOCATION = re.compile(r"/?(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")

ForContainer = Callable[[bytes], Configuration | None]
"""The configuration by which a container is judged; None leaves undecided what needs one."""


@dataclass(frozen=True, slots=True)
class _Trust:
    """Trust material that did not come as a configuration directory."""

    instance: str
    shared: Mapping[str, SharedParameters]


def trust_of(arguments: argparse.Namespace) -> ForContainer:
    """Raises UnavailableError and UnverifiedError for material that cannot be used."""
    if arguments.ca or arguments.tsa:
        cas, tsas = _certificates(arguments.ca), _certificates(arguments.tsa)
        return lambda data: _from_certificates(cas, tsas, data)
    found = _configuration(arguments)
    return lambda _: found


def _configuration(arguments: argparse.Namespace) -> Configuration | None:
    own = arguments.state / "trust" / "configuration"
    directory: Path | None = arguments.configuration or (own if own.is_dir() else None)
    if arguments.anchor is not None:
        anchor = parse_anchor(read_file(arguments.anchor, DIRECTORY_BYTES_MAX))
        if directory is None and _signed_directory(anchor, (beside := arguments.anchor.absolute().parent,)) is not None:
            directory = beside
        if directory is None:
            print(text("verify.anchor_alone", instance=anchor.instance, urls=" ".join(s.url for s in anchor.sources)), file=sys.stderr)
            return None
        return _under_anchor(anchor, directory)
    if directory is None:
        print(text("verify.no_material"), file=sys.stderr)
        return None
    return load_directory(directory)


def _from_certificates(authorities: Sequence[x509.Certificate], stampers: Sequence[x509.Certificate], data: bytes) -> _Trust:
    """One instance, the sender's, made of what was given: profile Basic, no members, no servers."""
    try:
        instance = sender_of(read_container(data).message).instance
    except UnverifiedError:
        instance = ""  # the container's own steps will say so
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


def _certificates(paths: Sequence[Path]) -> list[x509.Certificate]:
    return [certificate for path in paths for certificate in _certificates_in(path)]


def _certificates_in(path: Path) -> list[x509.Certificate]:
    """Every PEM certificate of a file, or the one that the file is (DER)."""
    content = read_file(path, DIRECTORY_BYTES_MAX)
    if content[:1] == b"\x30":
        return [certificates.read(content)]
    blocks = _PEM.findall(content)
    if not blocks:
        raise ConfigurationAbsentError(f"{path}: no PEM certificate")
    return [certificates.read_text(block) for block in blocks]


def _under_anchor(anchor: Anchor, directory: Path) -> _Trust:
    """The configuration beside its signed directory, believed only as far as the anchor's keys signed it.

    The directory lies where it was downloaded (`internalconf`) or where a box keeps it (`directory/<instance>` beside `configuration/`).
    Expiry does not matter: the container is judged at the moment of its stamp.
    """
    roots = (directory, directory.parent)
    place = _signed_directory(anchor, roots)
    if place is None:
        raise ConfigurationAbsentError(
            f"{directory}: no signed directory of {anchor.instance} beside it; an anchor cannot judge unsigned files"
        )
    trusted = TrustedConfiguration(anchor, own=False)
    failure: UnverifiedError | None = None
    for source in anchor.sources:
        try:
            wanted = trusted.directory_received(read_file(place, DIRECTORY_BYTES_MAX), source, now_us=None)
        except UnverifiedError as error:
            failure = error
            continue
        contents = {entry: content for entry in wanted if (content := _part(entry, roots)) is not None}
        return _Trust(anchor.instance, {anchor.instance: trusted.parts_received(contents).shared})
    raise failure or ConfigurationAbsentError("the anchor names no source")


def _signed_directory(anchor: Anchor, roots: Sequence[Path]) -> Path | None:
    names = ("internalconf", "externalconf", f"directory/{quote(anchor.instance, safe='')}")
    return next((root / name for root in roots for name in names if (root / name).is_file()), None)


def _part(entry: PartEntry, roots: Sequence[Path]) -> bytes | None:
    """The listed file, wherever a download or a box puts it; its digest is checked by who asked."""
    for path in _places(entry, roots):
        if path.is_file():
            content = read_file(path, SHARED_BYTES_MAX)
            if hashlib.new(entry.digest_name, content).digest() == entry.digest:
                return content
    return None


def _places(entry: PartEntry, roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        yield root / "parts" / entry.digest.hex()
        if _SAFE_LOCATION.fullmatch(entry.location):
            segments = entry.location.strip("/").split("/")
            yield from (root.joinpath(*segments[skipped:]) for skipped in range(len(segments)))


def read_file(path: Path, bytes_max: int, kind: str = ConfigurationAbsentError.kind) -> bytes:
    """Raises ConfigurationAbsentError, under another kind where it is no configuration that is read."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationAbsentError(f"{path}: {error.strerror}", kind=kind) from None
    if len(data) > bytes_max:
        raise ConfigurationAbsentError(f"{path}: more than {bytes_max} bytes", kind=kind)
    return data
