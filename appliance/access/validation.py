"""What a person may write into the local configuration; each refusal says which value and what is expected.

Pure. Names follow sheet part 1, services sheet 2.7 (reserved codes), paths sheet 9.1.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

import msgspec

from appliance.access import catalogue, paths
from appliance.access.rights import ANY_METHOD, ANY_PATH, GROUP, HTTP, HTTPS, MUTUAL_TLS, OPENAPI3, REST, WSDL, Client, Right, Service
from appliance.access.roles import ROLES, Account
from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId, ServiceId

CERTIFICATES_MAX = 10
"""Per client or service: a change of certificate needs two at a time."""
CERTIFICATE_BYTES_MAX = 8192
DOCUMENT_BYTES_MAX = 2 << 20
"""An OpenAPI description travels in one frame of at most 4 MiB."""
URL_CHARACTERS_MAX = 2000
TIMEOUT_S_MAX = 3600
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\\%]")
"""Characters that identifiers may not have (sheet 1.5): control and direction marks, and those that paths give a meaning to."""


_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}|uid:[0-9]{1,10}")
"""As useradd takes them; `uid:N` for one that has no name on this machine."""


class InvalidValueError(RefusedError):
    """A value that cannot be configured."""

    kind = "local.invalid"


def check_account(account: Account) -> None:
    """Raises InvalidValueError."""
    if not _USER.fullmatch(account.user):
        raise InvalidValueError(f"user {account.user[:40]!r}: not the name of a user of the operating system")
    unknown = [role for role in account.roles if role not in ROLES]
    if unknown or not account.roles or len(set(account.roles)) != len(account.roles):
        raise InvalidValueError(f"roles: one or more of {', '.join(ROLES)}, each once")


def check_client(client: Client, instance: str) -> None:
    """Raises InvalidValueError, IdentifierError."""
    _subsystem(client.subsystem, instance)
    if client.mode not in (HTTP, HTTPS, MUTUAL_TLS):
        raise InvalidValueError(f"mode {client.mode[:20]!r}: must be http, https or mtls")
    _certificates(client.certificates)
    if client.mode == MUTUAL_TLS and not client.certificates:
        raise InvalidValueError("mode mtls needs at least one certificate of the information system")
    if client.notices:
        check_url(client.notices, "notices")


def checked_service(service: Service, instance: str, document: bytes, known: Service | None) -> Service:
    """The service as it is stored, with its document's digest and endpoints. Without a new document the `known` one's is kept.

    Raises InvalidValueError, IdentifierError, DescriptionError.
    """
    parsed = ServiceId.parse(service.id)
    _subsystem(str(parsed.provider), instance)
    _part(parsed.code, "service code")
    if parsed.code in catalogue.RESERVED_CODES:
        raise InvalidValueError(f"service code {parsed.code}: reserved for the network")
    check_url(service.url, "url")
    if service.kind not in (REST, OPENAPI3, WSDL):
        raise InvalidValueError(f"kind {service.kind[:20]!r}: must be REST, OPENAPI3 or WSDL")
    if service.version and service.kind != WSDL:
        raise InvalidValueError("only SOAP services have versions")
    if service.version:
        _part(service.version, "service version")
    if not 1 <= service.timeout_s <= TIMEOUT_S_MAX:
        raise InvalidValueError(f"timeout: must be 1 to {TIMEOUT_S_MAX} seconds")
    if len(service.description) > URL_CHARACTERS_MAX:
        raise InvalidValueError(f"description: at most {URL_CHARACTERS_MAX} characters")
    _certificates(service.certificates)
    if service.kind == REST:
        return msgspec.structs.replace(service, document="", endpoints=())
    if not document:
        if known is None or not known.document:
            raise InvalidValueError(f"kind {service.kind} needs a description")
        return msgspec.structs.replace(service, document=known.document, endpoints=known.endpoints)
    if len(document) > DOCUMENT_BYTES_MAX:
        raise InvalidValueError(f"description of {len(document)} bytes, at most {DOCUMENT_BYTES_MAX}")
    digest = hashlib.sha256(document).hexdigest()
    # What a WSDL offers was read by the command that names each of its services here: this process parses no XML.
    endpoints = () if service.kind == WSDL else catalogue.endpoints_of(document)
    return msgspec.structs.replace(service, document=digest, endpoints=endpoints)


def check_right(right: Right, instance: str) -> None:
    """Raises InvalidValueError, IdentifierError."""
    _subsystem(str(ServiceId.parse(right.service).provider), instance)
    if right.client.startswith(GROUP):
        _part(right.client.removeprefix(GROUP), "group")
    else:
        for part in ClientId.parse(right.client).parts:
            _part(part, "client")
    if right.method != ANY_METHOD and right.method.upper() not in catalogue.METHODS:
        raise InvalidValueError(f"method {right.method[:20]!r}: must be * or one of {', '.join(catalogue.METHODS)}")
    if right.path != ANY_PATH and not right.path.startswith("/"):
        raise InvalidValueError(f"path {right.path[:80]!r}: must be ** or begin with /")
    if len(right.path) > paths.PATTERN_CHARACTERS_MAX or ".." in right.path:
        raise InvalidValueError(f"path: at most {paths.PATTERN_CHARACTERS_MAX} characters, without ..")


def check_url(url: str, name: str) -> None:
    """http or https, with a host that can be looked up, without user, query or fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidValueError(f"{name}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidValueError(f"{name}: must be http://host[:port]/path or https://host[:port]/path")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidValueError(f"{name}: no user, query or fragment in it")
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidValueError(f"{name}: at most {URL_CHARACTERS_MAX} printable ASCII characters without spaces")
    try:
        parts.hostname.encode("idna")  # as the resolver will
    except UnicodeError:
        raise InvalidValueError(f"{name}: host {parts.hostname[:80]!r}: each part between dots must have 1 to 63 characters") from None


def without_secrets(url: str) -> str:
    """A URL for the audit log: without user, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def provider_of(service_id: str) -> str:
    return service_id.rpartition("/")[0]


def _subsystem(text: str, instance: str) -> None:
    client = ClientId.parse(text)
    if client.subsystem is None:
        raise InvalidValueError(f"{text[:200]!r}: a subsystem is INSTANCE/CLASS/CODE/SUBSYSTEM")
    if client.instance != instance:
        raise InvalidValueError(f"{text[:200]!r}: this box belongs to instance {instance}")
    for part in client.parts:
        _part(part, "subsystem")


def _part(part: str, name: str) -> None:
    if not part or len(part) > 255 or _CONTROL.search(part) or part in (".", ".."):
        raise InvalidValueError(f"{name} {part[:80]!r}: characters that a name may not have")


def _certificates(certificates: tuple[bytes, ...]) -> None:
    if len(certificates) > CERTIFICATES_MAX:
        raise InvalidValueError(f"{len(certificates)} certificates, at most {CERTIFICATES_MAX}")
    for certificate in certificates:
        if len(certificate) > CERTIFICATE_BYTES_MAX or not _is_der_sequence(certificate):
            raise InvalidValueError("a certificate is not DER")


def _is_der_sequence(data: bytes) -> bool:
    """Outer shape only: this process has no parser of certificates, and they are compared byte for byte."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    size = data[1] & 0x7F
    return 1 <= size <= 3 and len(data) == 2 + size + int.from_bytes(data[2 : 2 + size], "big")
