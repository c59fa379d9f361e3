"""CEIQROO's authority and institutions with boxes: real keys, certificates, OCSP responses and time stamps, made at any moment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.seal.hash_chain import sha512
from appliance.trust.global_configuration import ApprovedTsa, CaCertificate, SecurityServer, SharedParameters
from appliance.trust.ocsp import build_request
from appliance.trust.timestamps import build_request as build_stamp_request
from appliance.trust.timestamps import token_of_response
from provisioning.authority import ocsp_responder, tsa
from provisioning.authority.profiles import Issuer, Profile, authority_subject, certify, seal_subject, server_subject
from tests.seal.workshop import BASIC, HOUR_US, INSTANCE, NOON_US

BORN_US = NOON_US - 24 * HOUR_US


def der(certificate: Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """One certification service with its OCSP responder and its time-stamping authority; valid from a day before noon."""

    name: str = ""

    def __post_init__(self) -> None:
        root_key, issuing_key, ocsp_key, self.tsa_key = (new_key() for _ in range(4))
        root = certify(Profile.ROOT, authority_subject(INSTANCE, f"root{self.name}"), root_key.public_key(), root_key, BORN_US)
        self.issuing = self._certificate(Profile.ISSUING, "issuing", issuing_key, Issuer(root, root_key))
        self.issuer = Issuer(self.issuing, issuing_key)
        self.ocsp = self._certificate(Profile.OCSP, "OCSP", ocsp_key, self.issuer)
        self.tsa = self._certificate(Profile.TSA, "TSA", self.tsa_key, self.issuer)
        self.delegate = ocsp_responder.Delegate(self.issuing, self.ocsp, ocsp_key)
        self.approved = CaCertificate(self.issuing, self.issuing.subject.public_bytes(), (), (), BASIC, top=False)
        self.approved_tsa = ApprovedTsa("TSA", "http://127.0.0.1:9", self.tsa)

    def _certificate(self, profile: Profile, name: str, key: ec.EllipticCurvePrivateKey, issuer: Issuer) -> Certificate:
        return certify(profile, authority_subject(INSTANCE, name + self.name), key.public_key(), issuer, BORN_US)

    def confirmation(self, certificate: Certificate, at_us: int, revoked_us: int | None = None) -> bytes:
        """An OCSP response about one of our certificates, good for nine hours."""
        request = build_request(certificate, self.approved)
        return ocsp_responder.answer(request, lambda _: ocsp_responder.CertificateStatus(revoked_us), self.delegate, at_us, 9 * 3600)

    def stamp(self, data: bytes, at_us: int) -> bytes:
        """A time-stamp token over `data`."""
        answer = tsa.answer(build_stamp_request(sha512(data)), tsa.StampingKey(self.tsa, self.tsa_key), at_us, serial=7)
        return token_of_response(answer, sha512(data), (self.approved_tsa,))


@dataclass(frozen=True)
class Institution:
    """A member with one box and one subsystem."""

    authority: Authority
    code: str
    subsystem: str
    seal_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    peer_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    seal: Certificate = field(init=False)
    peer: Certificate = field(init=False)

    def __post_init__(self) -> None:
        issuer = self.authority.issuer
        seal = certify(Profile.SEAL, seal_subject(self.member, self.code), self.seal_key.public_key(), issuer, BORN_US)
        named = server_subject(self.server, self.code, "127.0.0.1")
        object.__setattr__(self, "seal", seal)
        object.__setattr__(self, "peer", certify(Profile.PEER, named, self.peer_key.public_key(), issuer, BORN_US))

    @property
    def member(self) -> ClientId:
        return ClientId(INSTANCE, "GOV", self.code)

    @property
    def client(self) -> ClientId:
        return ClientId(INSTANCE, "GOV", self.code, self.subsystem)

    @property
    def server(self) -> ServerId:
        return ServerId(self.member, "SS1")

    def registered(self, *, maintenance: str | None = None, suspended: bool = False) -> SecurityServer:
        """This institution's line in the global configuration. Suspended: the box stays, its subsystem is gone (II.2.XIV)."""
        clients = frozenset() if suspended else frozenset({self.client})
        hashes = frozenset({hashlib.sha256(der(self.peer)).digest()})
        return SecurityServer(self.server, "127.0.0.1", hashes, clients, maintenance)


class Network:
    """An instance with three institutions: one asks, one provides, the third looks for trouble."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.stranger = Authority(" of a stranger")
        self.asker = Institution(self.authority, "1001", "solomon")
        self.provider = Institution(self.authority, "2002", "geoportal")
        self.third = Institution(self.authority, "3003", "rogue")
        self.outsider = Institution(self.authority, "4004", "unregistered")
        """Has certificates of CEIQROO's authority, but no box in the configuration."""

    @property
    def service(self) -> ServiceId:
        return ServiceId(self.provider.client, "incidents")

    @property
    def closed_service(self) -> ServiceId:
        """Only the third institution may use it."""
        return ServiceId(self.provider.client, "reserved")

    def shared(self, *servers: SecurityServer, freshness_s: int = 8 * 3600) -> SharedParameters:
        """The global configuration; without `servers`, of the three that are registered."""
        listed = servers or tuple(one.registered() for one in (self.asker, self.provider, self.third))
        members = {one.member: one.code for one in (self.asker, self.provider, self.third)}
        cas, tsas = (self.authority.approved,), (self.authority.approved_tsa,)
        return SharedParameters(INSTANCE, 6, cas, tsas, members, listed, {}, freshness_s)


def without(shared: SharedParameters, institution: Institution) -> SharedParameters:
    """The next configuration, in which this institution's box is not listed any more."""
    return replace(shared, servers=tuple(server for server in shared.servers if server.id != institution.server))
