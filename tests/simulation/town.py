"""The network's authority and institutions: real keys and certificates, made once, the same in every process.

Keys have fixed numbers and sign as RFC 6979 says, so that no byte differs from one process to the next.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.access.local_configuration import LocalConfigurationStore
from appliance.access.rights import HTTP, Client, Right, Service
from appliance.hsm.certificates import CertificateStore
from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.trust.ocsp import build_request
from provisioning import publication
from provisioning.authority import ocsp_responder, tsa
from provisioning.authority.profiles import (
    Issuer,
    Profile,
    authority_subject,
    certify,
    log_subject,
    seal_subject,
    server_subject,
)
from provisioning.centre import Centre, CentreSettings, Parameters
from provisioning.publication import ConfigurationKey, Publication
from provisioning.records import ApprovedAuthority, ApprovedStamping, Member, Server, Snapshot, Subsystem
from tests.seal.workshop import BASIC, HOUR_US, INSTANCE, NOON_US
from tests.simulation.randomness import SteadyKey, seeded, steady_certificates

BORN_US = NOON_US - 24 * HOUR_US
CEIQROO, CONFIGURATION_PORT, OCSP_PORT, TSA_PORT = "ceiqroo", 8000, 8888, 8899
SYSTEM_PORT, CLIENT_PORT, HTTPS_PORT, PEER_PORT, PEER_OCSP_PORT = 80, 8080, 8443, 5500, 5577
SERVICES = ("open", "closed")
CODES = ("1001", "2002", "3003")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _certified(profile: Profile, subject: x509.Name, key: SteadyKey, issuer: Issuer | SteadyKey, **more: str) -> x509.Certificate:
    by = issuer.real if isinstance(issuer, SteadyKey) else issuer
    with steady_certificates():
        return certify(profile, subject, key.public_key(), by, BORN_US, **more)  # type: ignore[arg-type]  # texts only


@dataclass(frozen=True)
class Institution:
    """A member with one box, one subsystem that asks and offers, and an information system."""

    code: str
    number: int
    issuer: Issuer
    keys: dict[str, SteadyKey] = field(default_factory=dict)
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = {"seal": self.seal_label, "peer": "tls-peer", "internal": "tls-internal", "log": "log"}
        for place, (name, label) in enumerate(labels.items()):
            self.keys[label] = SteadyKey(1000 * self.number + place)
            self.certificates[label] = self._certificate(name, self.keys[label])

    def _certificate(self, name: str, key: SteadyKey) -> x509.Certificate:
        url = f"http://{CEIQROO}:{OCSP_PORT}/ocsp"
        match name:
            case "seal":
                return _certified(Profile.SEAL, seal_subject(self.member, self.code), key, self.issuer, ocsp_url=url)
            case "log":
                return _certified(Profile.LOG, log_subject(self.server), key, self.issuer)
            case _:
                profile = Profile.PEER if name == "peer" else Profile.INTERNAL
                return _certified(profile, server_subject(self.server, self.code, self.host), key, self.issuer, ocsp_url=url)

    @property
    def seal_label(self) -> str:
        return f"seal/GOV/{self.code}"

    @property
    def host(self) -> str:
        return f"box-{self.code}"

    @property
    def system_host(self) -> str:
        return f"system-{self.code}"

    @property
    def member(self) -> ClientId:
        return ClientId(INSTANCE, "GOV", self.code)

    @property
    def client(self) -> ClientId:
        return ClientId(INSTANCE, "GOV", self.code, "police")

    @property
    def server(self) -> ServerId:
        return ServerId(self.member, "SS1")

    def service(self, name: str) -> ServiceId:
        return ServiceId(self.client, name)


class Town:
    """Made once for each process of Python; a run changes nothing of it."""

    def __init__(self, directory: Path) -> None:
        root_key, issuing_key, ocsp_key, self.tsa_key, self.configuration_key = (SteadyKey(number) for number in range(101, 106))
        self.root = _certified(Profile.ROOT, authority_subject(INSTANCE, "root"), root_key, root_key)
        self.issuing = self._of(Profile.ISSUING, issuing_key, Issuer(self.root, root_key.real))
        self.issuer = Issuer(self.issuing, issuing_key.real)
        self.ocsp = self._of(Profile.OCSP, ocsp_key, self.issuer)
        self.tsa = self._of(Profile.TSA, self.tsa_key, self.issuer)
        self.configuration = self._of(Profile.CONFIGURATION, self.configuration_key, self.configuration_key)
        self.delegate = ocsp_responder.Delegate(self.issuing, self.ocsp, ocsp_key)  # type: ignore[arg-type]  # signs as one
        self.stamping = tsa.StampingKey(self.tsa, self.tsa_key)  # type: ignore[arg-type]  # signs as one
        self.institutions = [Institution(code, number, self.issuer) for number, code in enumerate(CODES, 1)]
        self._directory = directory
        certificates = directory / "certificates"
        certificates.mkdir(parents=True)
        (certificates / "configuration.der").write_bytes(der(self.configuration))
        self._published: dict[tuple[object, ...], Publication] = {}
        self.anchor = publication.anchor(self.centre(Parameters()))
        for institution in self.institutions:
            self._box_files(directory / institution.host, institution)

    def _of(self, profile: Profile, key: SteadyKey, issuer: Issuer | SteadyKey) -> x509.Certificate:
        return _certified(profile, authority_subject(INSTANCE, profile.value), key, issuer)

    def centre(self, parameters: Parameters) -> Centre:
        settings = CentreSettings(instance=INSTANCE, address=CEIQROO, initialised_us=BORN_US, parameters=parameters)
        return Centre(self._directory, settings)

    def template(self, institution: Institution) -> Path:
        """What a provisioned box has on its disk."""
        return self._directory / institution.host

    def _box_files(self, state: Path, institution: Institution) -> None:
        for part in ("keys", "trust", "log", "box", "run"):
            (state / part).mkdir(parents=True)
        (state / "box.toml").write_text("# the simulation gives settings by itself\n")
        store = CertificateStore(state / "keys" / "certificates")
        for label, certificate in institution.certificates.items():
            store.add(label, certificate)
        (state / "trust" / "anchor.xml").write_bytes(self.anchor)
        local = LocalConfigurationStore(state / "box", INSTANCE)
        local.commit(local.plan_enrolment(True))
        local.commit(local.plan_client(Client(str(institution.client), HTTP), False))
        for name in SERVICES:
            url = f"http://{institution.system_host}:{SYSTEM_PORT}/{name}"
            local.commit(local.plan_service(Service(str(institution.service(name)), url), False))

    def snapshot(self, absent: frozenset[str]) -> Snapshot:
        """The registry without the institutions that are suspended."""
        there = [one for one in self.institutions if one.code not in absent]
        url = f"http://{CEIQROO}:{OCSP_PORT}/ocsp"
        return Snapshot(
            instance=INSTANCE,
            member_classes=(("GOV", "government"),),
            members=tuple(Member(one.member, one.code, None) for one in there),
            subsystems=tuple(Subsystem(one.client, one.code) for one in there),
            servers=tuple(
                Server(
                    id=one.server,
                    address=one.host,
                    maintenance=None,
                    authentication_certificates=(der(one.certificates["tls-peer"]),),
                    clients=(one.client,),
                )
                for one in there
            ),
            authorities=(
                ApprovedAuthority(der(self.root), None, "CEIQROO", BASIC, url, None),
                ApprovedAuthority(der(self.issuing), der(self.root), "CEIQROO", BASIC, url, der(self.ocsp)),
            ),
            stamping=(ApprovedStamping("CEIQROO", f"http://{CEIQROO}:{TSA_PORT}/tsa", der(self.tsa)),),
            suspended=tuple(one.member for one in self.institutions if one.code in absent),
        )

    def confirmation(self, certificate: x509.Certificate, at_us: int, validity_s: int = 9 * 3600) -> bytes:
        """A prepared OCSP response, without a nonce."""
        request = build_request(certificate, self._approved)
        return ocsp_responder.answer(request, lambda _: ocsp_responder.CertificateStatus(), self.delegate, at_us, validity_s)

    @functools.cached_property
    def _approved(self):  # type: ignore[no-untyped-def]  # CaCertificate
        from appliance.trust.global_configuration import CaCertificate

        return CaCertificate(self.issuing, self.issuing.subject.public_bytes(), (), (), BASIC, top=False)

    def signing(self) -> ConfigurationKey:
        return ConfigurationKey(self.configuration, self.configuration_key)  # type: ignore[arg-type]  # signs as one


class PublishedParts:
    """The little of `Registry` that publishing asks for: one run's memory of when a part became what it is."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self.absent: frozenset[str] = frozenset()
        self._known: dict[str, tuple[bytes, int]] = {}

    def snapshot(self, now_us: int) -> Snapshot:
        return self._town.snapshot(self.absent)

    def current_since(self, part: str, sha256: bytes, now_us: int) -> int:
        known = self._known.get(part)
        if known is None or known[0] != sha256:
            known = self._known[part] = sha256, now_us if known is None else max(now_us, known[1] + 1)
        return known[1]


def right(client: Institution, provider: Institution, service: str) -> Right:
    return Right(str(provider.service(service)), str(client.client))


_town: list[Town] = []


def the_town(directory: Path) -> Town:
    """One for each process: making it costs as much as a run."""
    if not _town:
        with seeded("town"):
            _town.append(Town(directory))
    return _town[0]
