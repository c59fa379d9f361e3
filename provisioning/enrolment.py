"""Taking a box into the instance: its requests become certificates, its address and its clients an entry in the registry.

I/O through the registry and the issuing authority only. The request is one JSON document that a person carries or sends:
`{"server": "QROO-TEST/MUN/TULUM/SS1", "requests": {"seal/MUN/TULUM": BASE64, "tls-peer": BASE64, ...}}`, PKCS#10 in DER; the approval is
another one. Nothing is registered unless everything in the request holds (II.2.III). Rules I.4.XIII, I.4.XVIII, II.2.I.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.clock import Clock
from appliance.errors import UNREADABLE, RefusedError
from appliance.model.identifiers import ClientId, IdentifierError, ServerId
from provisioning import tpm_enrolment
from provisioning.authority import ca, profiles
from provisioning.authority.profiles import BoxPublicKey, Issuer, Profile
from provisioning.centre import Centre
from provisioning.records import Server
from provisioning.registry import Registry
from provisioning.tpm_enrolment import Answer, TpmClaim, TpmRefusedError

REQUEST_BYTES_MAX = 1 << 20
"""A box with a hundred members sends about 100 KB."""
REQUESTS_MAX = 256
ADDRESS_CHARACTERS_MAX = 64
"""The address is the common name of the box's TLS certificates."""

_SEAL = "seal/"
_HOST_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE)


class EnrolmentError(RefusedError):
    """A request that is not approved; nothing was registered."""

    kind = "enrolment.malformed"


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a box asks for: PKCS#10 in base64 DER by key label; where it has a TPM, its word for each key (`tpm_enrolment`)."""

    server: str
    requests: dict[str, str]
    tpm: TpmClaim | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One certificate to be issued, already checked."""

    label: str
    profile: Profile
    subject: x509.Name
    key: BoxPublicKey
    holder: str
    names: tuple[str, ...] = ()


def read_request(document: bytes) -> EnrolmentRequest:
    """Raises EnrolmentError."""
    if len(document) > REQUEST_BYTES_MAX:
        raise EnrolmentError(f"a request longer than {REQUEST_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(document, type=EnrolmentRequest)
    except UNREADABLE as error:
        raise EnrolmentError(f"not an enrolment request: {error}") from None


def approve(
    centre: Centre,
    request: EnrolmentRequest | dict[str, Any],
    address: str,
    clock: Clock,
    *,
    subsystems: Sequence[str] | None = None,
    internal_address: str = "",
    answer: Answer | None = None,
    replace_tpm: bool = False,
) -> dict[str, Any]:
    """Certifies and registers a box; returns the approval (certificates and issuers in base64 DER, anchor in base64 XML).

    `address`: where peers reach it. `internal_address`: where its information systems do, the same unless given. `subsystems`: the codes to
    register as clients, all of each sealed member's unless given. `answer`: to the challenge for this request, wanted where the box has a
    TPM; `replace_tpm`: an officer's word that the box has another TPM now, or none. Raises EnrolmentError, CertificateRequestError,
    UnknownEntryError, AttestationError, TpmRefusedError.

    (1) the server belongs to this instance, its owner is a member in good standing; (2) every label is known, every sealed member is
    registered and the owner is among them; (3) every request is signed by its key and no key serves two purposes or two holders;
    (4) the TPM is proven and every key lives in it; (5) then, in one transaction: certificates, server, clients, TPM.
    """
    if isinstance(request, dict):
        request = read_request(msgspec.json.encode(request))
    server = _server_of(centre, request)
    _check_address(address)
    _check_address(internal_address or address)
    with centre.registry() as registry:
        wanted = _checked(registry, server, request, address, internal_address or address)
        clients = _clients(registry, wanted, subsystems)
        authority = ca.issuer(centre)
        now_us = clock.now_us()
        proven = tpm_enrolment.check_enrolment(
            registry, str(server), request.tpm, request, _ders(request), answer, now_us, replace_tpm=replace_tpm
        )
        with registry.changing():
            certificates = {one.label: _issued(registry, authority, one, now_us, centre.ocsp_url) for one in wanted}
            registry.register_server(server, address, clients, now_us)
            tpm_enrolment.settle(registry, str(server), proven)
    return {
        "server": str(server),
        "certificates": {label: _base64(certificate) for label, certificate in certificates.items()},
        "issuers": [_base64(centre.certificate(Profile.ISSUING)), _base64(centre.certificate(Profile.ROOT))],
        "anchor": base64.b64encode(centre.anchor_file.read_bytes()).decode(),
        "broker": {"host": centre.settings.broker_host, "port": centre.settings.broker_port},
        "clients": [str(client) for client in clients],
    }


def challenge(centre: Centre, request: EnrolmentRequest, clock: Clock, vouched_sha256: bytes = b"") -> dict[str, Any]:
    """What only the TPM of this request can answer. `vouched_sha256`: an officer knows this endorsement key (SHA-256 of its TPM2B_PUBLIC),
    whose manufacturer left no certificate. Raises EnrolmentError, TpmRefusedError, AttestationError."""
    server = _server_of(centre, request)
    if request.tpm is None:
        raise TpmRefusedError("the request names no TPM", kind="attestation.no_tpm")
    with centre.registry() as registry:
        return tpm_enrolment.challenge(registry, str(server), request.tpm, request, centre.manufacturers(), clock.now_us(), vouched_sha256)


def renew(centre: Centre, request: EnrolmentRequest, clock: Clock) -> dict[str, Any]:
    """Certifies new keys of a registered box beside its old ones; the document as of `approve`, without what the box has already.

    A renewal changes key and dates, nothing else: subject and names are those of the newest certificate that the same holder has for the
    same purpose. The old certificates stay good until their end or their revocation; peers are told both hashes of a box meanwhile.
    Raises EnrolmentError, CertificateRequestError, UnknownEntryError.

    (1) the box is registered and its members are in good standing; (2) each label had a certificate that was not revoked; (3) every request
    is signed by its key, the key is new and serves nobody else; (4) where the box was enrolled with a TPM, the key lives in it; (5) then,
    in one transaction, the certificates.
    """
    server = _server_of(centre, request)
    if not 1 <= len(request.requests) <= REQUESTS_MAX:
        raise EnrolmentError(f"a box renews 1 to {REQUESTS_MAX} certificates")
    with centre.registry() as registry:
        now_us = clock.now_us()
        box = next((known for known in registry.snapshot(now_us).servers if known.id == server), None)
        if box is None:
            raise EnrolmentError(f"{server} is not registered, or its owner is suspended", kind="enrolment.not_registered")
        holders = {str(server), str(server.owner), *(str(client.member) for client in box.clients)}
        wanted: list[_Wanted] = []
        for label, encoded in request.requests.items():
            wanted.append(_renewed(registry, box, label, profiles.checked_request(_decoded(label, encoded)), wanted))
        foreign = [one.label for one in wanted if one.holder not in holders]
        if foreign:
            raise EnrolmentError(f"{', '.join(foreign)}: not of a member whose box {server} is", kind="enrolment.not_registered")
        tpm_enrolment.check_renewal(registry, str(server), request.tpm, _ders(request))
        authority = ca.issuer(centre)
        with registry.changing():
            certificates = {one.label: _issued(registry, authority, one, now_us, centre.ocsp_url) for one in wanted}
    return {"server": str(server), "certificates": {label: _base64(certificate) for label, certificate in certificates.items()}}


def _renewed(registry: Registry, box: Server, label: str, key: BoxPublicKey, earlier: list[_Wanted]) -> _Wanted:
    if label.startswith(_SEAL):
        wanted = _seal(registry, label, key)
    else:
        wanted = _box_key(box.id, label, key, _standing(registry, box.id.owner), box.address, box.address)
    same = (known for known in registry.certificates() if (known.profile, known.holder) == (wanted.profile, wanted.holder))
    good = [known for known in same if known.revoked_us is None]
    if not good:
        raise EnrolmentError(f"{label}: there is no certificate to renew", kind="enrolment.nothing_to_renew")
    if any(known.key_sha256 == ca.key_sha256(key) for known in good):
        raise EnrolmentError(f"{label}: the key is the old one", kind="enrolment.same_key")
    _not_reused(registry, wanted, earlier)
    newest = x509.load_der_x509_certificate(good[-1].der)
    return dataclasses.replace(wanted, subject=newest.subject, names=_names_of(newest))


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _issued(registry: Registry, authority: Issuer, one: _Wanted, now_us: int, ocsp_url: str) -> x509.Certificate:
    return ca.issue(
        registry, authority, one.profile, one.subject, one.key, holder=one.holder, now_us=now_us, ocsp_url=ocsp_url, names=one.names
    )


def _check_address(address: str) -> None:
    """An IP address or an ASCII host name: it goes into certificates and into everybody's configuration."""
    if len(address) > ADDRESS_CHARACTERS_MAX or not (_HOST_NAME.fullmatch(address) or _is_ip(address)):
        raise EnrolmentError(
            f"neither an IP address nor a host name of at most {ADDRESS_CHARACTERS_MAX} characters", kind="enrolment.address"
        )


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
        return True
    except ValueError:
        return False


def _server_of(centre: Centre, request: EnrolmentRequest) -> ServerId:
    try:
        server = ServerId.parse(request.server)
    except IdentifierError as error:
        raise EnrolmentError(f"server: {error}") from None
    if server.owner.instance != centre.instance:
        raise EnrolmentError(f"{server} belongs to another instance than {centre.instance}", kind="enrolment.other_instance")
    return server


def _checked(registry: Registry, server: ServerId, request: EnrolmentRequest, address: str, internal_address: str) -> list[_Wanted]:
    if not 1 <= len(request.requests) <= REQUESTS_MAX:
        raise EnrolmentError(f"a box asks for 1 to {REQUESTS_MAX} certificates")
    if Profile.PEER not in request.requests or f"{_SEAL}{server.owner.member_class}/{server.owner.member_code}" not in request.requests:
        raise EnrolmentError("the owner's seal key and tls-peer must be among the requests", kind="enrolment.incomplete")
    owner_name = _standing(registry, server.owner)
    wanted: list[_Wanted] = []
    for label, encoded in request.requests.items():
        key = profiles.checked_request(_decoded(label, encoded))
        if label.startswith(_SEAL):
            one = _seal(registry, label, key)
        else:
            one = _box_key(server, label, key, owner_name, address, internal_address)
        _not_reused(registry, one, wanted)
        wanted.append(one)
    return wanted


def _seal(registry: Registry, label: str, key: BoxPublicKey) -> _Wanted:
    parts = label.removeprefix(_SEAL).split("/")
    if len(parts) != 2 or not all(parts):
        raise EnrolmentError(f"{label}: a seal key is named seal/CLASS/CODE")
    member = ClientId(registry.instance, parts[0], parts[1])
    name = _standing(registry, member)
    return _Wanted(label, Profile.SEAL, profiles.seal_subject(member, name), key, str(member))


def _box_key(server: ServerId, label: str, key: BoxPublicKey, owner_name: str, address: str, internal_address: str) -> _Wanted:
    holder = str(server)
    match label:
        case Profile.PEER:
            subject = profiles.server_subject(server, owner_name, address)
            return _Wanted(label, Profile.PEER, subject, key, holder, (address,))
        case Profile.INTERNAL:
            subject = profiles.server_subject(server, owner_name, internal_address)
            return _Wanted(label, Profile.INTERNAL, subject, key, holder, (internal_address,))
        case Profile.REPORT:
            return _Wanted(label, Profile.REPORT, profiles.report_subject(server), key, holder)
        case Profile.LOG:
            return _Wanted(label, Profile.LOG, profiles.log_subject(server), key, holder)
        case _:
            raise EnrolmentError(f"{label}: no certificate is issued for this key", kind="enrolment.unknown_key")


def _standing(registry: Registry, member: ClientId) -> str:
    known = registry.member(member)
    if known.suspended_us is not None:
        raise EnrolmentError(f"{member} is suspended", kind="enrolment.suspended")
    return known.name


def _not_reused(registry: Registry, one: _Wanted, earlier: list[_Wanted]) -> None:
    """A seal key in TLS, or one member's key at another's, would make one holder speak as the other."""
    name = ca.key_sha256(one.key)
    certified = ((known.profile, known.holder) for known in registry.certificates_of_key(name))
    asked = ((other.profile, other.holder) for other in earlier if ca.key_sha256(other.key) == name)
    if any(use != (one.profile, one.holder) for use in (*certified, *asked)):
        raise profiles.CertificateRequestError(f"{one.label}: the key serves another purpose or holder", kind="request.key_reused")


def _clients(registry: Registry, wanted: list[_Wanted], subsystems: Sequence[str] | None) -> tuple[ClientId, ...]:
    members = [ClientId.parse(one.holder) for one in wanted if one.profile is Profile.SEAL]
    registered = [client for member in members for client in registry.subsystems(member)]
    if subsystems is None:
        return tuple(registered)
    unknown = set(subsystems) - {client.subsystem for client in registered}
    if unknown:
        raise EnrolmentError(f"not registered: {', '.join(sorted(unknown))}", kind="enrolment.unknown_subsystem")
    return tuple(client for client in registered if client.subsystem in subsystems)


def _ders(request: EnrolmentRequest) -> dict[str, bytes]:
    return {label: _decoded(label, encoded) for label, encoded in request.requests.items()}


def _decoded(label: str, encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise EnrolmentError(f"{label}: not base64") from None


def _base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
