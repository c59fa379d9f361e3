"""The signed directory of the global configuration: what it lists, and whether CEIQROO signed it.

Pure. Sheet 6.3: a MIME document whose first part lists the files of the configuration with their digests and whose second part is the
signature over the exact bytes of the first. The parts' list is read from the signed bytes only, and the delimiter too: the header that
names it is not signed, so it must agree with the first signed line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from appliance.clock import to_us
from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.trust.global_configuration import ConfigurationMalformedError
from appliance.trust.signatures import BY_URI, is_genuine

DIRECTORY_BYTES_MAX = 256 << 10
"""A directory with three parts has 2 KiB."""
PARTS_MAX = 64
HEADERS_MAX = 16

SHARED, PRIVATE = "SHARED-PARAMETERS", "PRIVATE-PARAMETERS"

_DIGESTS = {
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
}
_PARAMETER = re.compile(r""";\s*([A-Za-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))""")
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=?-]{1,70}")
_GENERATED = re.compile(r"/(\d{14,24})/[^/]*")


class ConfigurationUntrustedError(UnverifiedError):
    """Not signed by a key that may sign the configuration of this place."""

    kind = "configuration.untrusted"


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One file that the directory lists."""

    identifier: str
    """`SHARED-PARAMETERS`, `PRIVATE-PARAMETERS`, or an optional part's name (sheet 6.6)."""
    instance: str
    """Empty where the directory names none."""
    location: str
    """To be resolved against the directory's own URL."""
    digest_name: str
    digest: bytes

    def is_of(self, content: bytes) -> bool:
        """Whether these bytes are the file that was signed."""
        return hmac.compare_digest(hashlib.new(self.digest_name, content).digest(), self.digest)

    @property
    def generated(self) -> str:
        """When the file was made, as X-Road's central server writes it into the path; empty where it does not."""
        found = _GENERATED.search(self.location)
        return "" if found is None else found[1]


@dataclass(frozen=True, slots=True)
class SignedDirectory:
    """A directory as read; `check_signature` says whether to believe it."""

    raw: bytes
    expires_us: int
    version: int | None
    parts: tuple[PartEntry, ...]
    signed: bytes
    algorithm: str
    signature: bytes
    certificate_digest_name: str
    certificate_digest: bytes

    @property
    def generated(self) -> str:
        """The latest time of making that every listed path carries in common form; empty where one does not."""
        stamps = [part.generated for part in self.parts]
        return max(stamps) if stamps and all(stamps) else ""


def parse_directory(body: bytes) -> SignedDirectory:
    """Reads a directory as downloaded. Raises ConfigurationMalformedError."""
    if len(body) > DIRECTORY_BYTES_MAX:
        raise ConfigurationMalformedError(f"a directory of {len(body)} bytes, at most {DIRECTORY_BYTES_MAX}")
    head, rest = _headers(body)
    outer = _multipart(rest, _boundary(head, "multipart/related"))
    if len(outer) != 2:
        raise ConfigurationMalformedError("a directory has two parts: list and signature")
    inner_head, signed = _headers(outer[0])
    inner = _boundary(inner_head, "multipart/mixed")
    if signed.split(b"\n", 1)[0].rstrip(b"\r") != b"--" + inner:
        raise ConfigurationMalformedError("the signed list does not begin with its delimiter")
    listed = _multipart(signed, inner)
    if not 1 <= len(listed) <= PARTS_MAX + 1:
        raise ConfigurationMalformedError("an impossible number of parts")
    first, _ = _headers(listed[0])
    signature_head, signature = _headers(outer[1])
    digest, parameters = _parameters(_need(signature_head, "verification-certificate-hash"))
    return SignedDirectory(
        raw=body,
        expires_us=_moment(_need(first, "expire-date")),
        version=_version(first.get("version")),
        parts=tuple(_entry(part) for part in listed[1:]),
        signed=signed,
        algorithm=_need(signature_head, "signature-algorithm-id"),
        signature=_base64(signature),
        certificate_digest_name=_digest_name(parameters.get("hash-algorithm-id", "")),
        certificate_digest=_base64(digest.encode("latin-1")),
    )


def check_signature(directory: SignedDirectory, signers: Iterable[x509.Certificate]) -> None:
    """Raises ConfigurationUntrustedError unless one of `signers` signed the directory. Their validity period does not count (sheet 6.1)."""
    # (1) an algorithm that we accept
    scheme = BY_URI.get(directory.algorithm)
    if scheme is None:
        raise ConfigurationUntrustedError("signed with an algorithm that this network does not use")
    # (2) the certificate that the directory names is one of those that may sign here
    for signer in signers:
        digest = hashlib.new(directory.certificate_digest_name, certificates.der(signer)).digest()
        if hmac.compare_digest(digest, directory.certificate_digest):
            # (3) it signed these very bytes
            if is_genuine(certificates.public_key(signer), scheme, directory.signature, directory.signed):
                return
            raise ConfigurationUntrustedError("the signature does not fit the directory")
    raise ConfigurationUntrustedError("signed with a certificate that may not sign here")


def _entry(part: bytes) -> PartEntry:
    head, content = _headers(part)
    if _need(head, "content-transfer-encoding").lower() != "base64":
        raise ConfigurationMalformedError("a digest that is not base64")
    identifier, parameters = _parameters(_need(head, "content-identifier"))
    instance = parameters.get("instance", "")
    if identifier in (SHARED, PRIVATE) and not instance:
        raise ConfigurationMalformedError(f"{identifier} without its instance")
    name = _digest_name(_need(head, "hash-algorithm-id"))
    digest = _base64(content)
    if len(digest) != hashlib.new(name).digest_size:
        raise ConfigurationMalformedError("a digest of another length than its algorithm's")
    return PartEntry(identifier, instance, _need(head, "content-location"), name, digest)


def _headers(block: bytes) -> tuple[dict[str, str], bytes]:
    """Header lines up to the blank line or the end, and the rest, untouched. CRLF or LF: X-Road's own samples have both."""
    head: dict[str, str] = {}
    at = 0
    while True:
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        line = block[at:end].rstrip(b"\r")
        at = end + 1
        if not line:
            return head, block[at:]
        name, colon, value = line.decode("latin-1").partition(":")
        key = name.strip().lower()
        if not colon or not key or key in head or len(head) == HEADERS_MAX:
            raise ConfigurationMalformedError("a header that is none, or twice, or too many")
        head[key] = value.strip()


def _multipart(body: bytes, boundary: bytes) -> list[bytes]:
    """The parts between delimiter lines; the line end before a delimiter belongs to the delimiter."""
    delimiter = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r?\n|\Z)")
    parts: list[bytes] = []
    begin: int | None = None
    at = 0
    while (found := delimiter.search(body, at)) is not None:
        if begin is not None:
            parts.append(body[begin : found.start()])
        if found[1]:
            return parts
        if len(parts) > PARTS_MAX + 1:
            raise ConfigurationMalformedError("too many parts")
        begin = found.end()
        # a part may be empty: its line end may serve the next delimiter, so look again from that line end
        at = found.end() - 1 if body[found.end() - 1 : found.end()] == b"\n" else found.end()
    if begin is not None:
        parts.append(body[min(begin, len(body)) :])
    return parts


def _boundary(head: dict[str, str], wanted: str) -> bytes:
    kind, parameters = _parameters(_need(head, "content-type"))
    boundary = parameters.get("boundary", "")
    if kind.lower() != wanted or not _BOUNDARY.fullmatch(boundary):
        raise ConfigurationMalformedError(f"not {wanted} with a boundary")
    return boundary.encode()


def _parameters(value: str) -> tuple[str, dict[str, str]]:
    """`first; name=value; name='value'`: the first word and the parameters, names in lower case."""
    first = value.partition(";")[0].strip()
    found = {m[1].lower(): m[2] or m[3] or m[4] or "" for m in _PARAMETER.finditer(value)}
    return first, found


def _need(head: dict[str, str], name: str) -> str:
    value = head.get(name, "")
    if not value:
        raise ConfigurationMalformedError(f"the header {name} is missing")
    return value


def _digest_name(uri: str) -> str:
    if uri not in _DIGESTS:
        raise ConfigurationMalformedError("a digest algorithm that this network does not use")
    return _DIGESTS[uri]


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        raise ConfigurationMalformedError("a version that is not a number")
    return int(text)


def _moment(text: str) -> int:
    try:
        return to_us(datetime.fromisoformat(text))
    except (ValueError, OverflowError, RuntimeError):
        raise ConfigurationMalformedError("an Expire-date that is not a moment with a time zone") from None


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationMalformedError("not base64") from None
