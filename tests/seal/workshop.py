"""A small authority with every part that a seal needs: real keys, certificates, OCSP responses and time stamps, made at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from appliance.model.identifiers import ClientId
from appliance.seal.container import Contents, write_container
from appliance.seal.hash_chain import Part, build_batch, build_stamp_batch, sha512
from appliance.seal.xades import SIGNED_CHAIN, SIGNED_MESSAGE, complete, prepare, signature_value
from appliance.trust.global_configuration import ApprovedTsa, CaCertificate, SharedParameters
from appliance.trust.ocsp import build_request
from appliance.trust.timestamps import build_request as build_stamp_request
from appliance.trust.timestamps import token_of_response
from provisioning.authority import ocsp_responder, tsa
from provisioning.authority.profiles import Issuer, Profile, authority_subject, certify, seal_subject

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
NOON_US = 1_795_435_200 * SECOND_US
"""2026-11-23T12:00:00Z."""
INSTANCE = "QROO-TEST"
MEMBER = ClientId(INSTANCE, "GOV", "1001")
CLIENT = ClientId(INSTANCE, "GOV", "1001", "solomon")
BASIC = "ee.ria.xroad.common.certificateprofile.impl.BasicCertificateProfileInfoProvider"
HEAD = (
    b"POST\r\n/r1/QROO-TEST/GOV/2002/geoportal/incidents\r\nContent-Type:application/json\r\n"
    b"X-Road-Client:QROO-TEST/GOV/1001/solomon\r\nx-road-request-id:11111111-2222-3333-4444-555555555555\r\nx-road-id:Q-1\r\n"
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Seal:
    """The three documents that travel with one message."""

    signature: bytes
    chain_result: bytes | None
    chain: bytes | None


def parts_of(message: bytes, attachments: Sequence[bytes] = ()) -> list[Part]:
    return [("/message.xml", sha512(message)), *((f"/attachment{at}", sha512(data)) for at, data in enumerate(attachments, 1))]


def sign(key: PrivateKey, data: bytes, algorithm: str) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA512()))
    scheme = padding.PSS(padding.MGF1(hashes.SHA512()), 64) if algorithm == "rsa-pss-sha512" else padding.PKCS1v15()
    return key.sign(data, scheme, hashes.SHA512())


@dataclass
class Workshop:
    """Everything is valid from a day before `born_us`."""

    key: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    algorithm: str = "ecdsa-sha512"
    born_us: int = NOON_US - 24 * HOUR_US
    freshness_s: int = 8 * 3600

    def __post_init__(self) -> None:
        root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = certify(Profile.ROOT, authority_subject(INSTANCE, "root"), root_key.public_key(), root_key, self.born_us)
        issuing_key = ec.generate_private_key(ec.SECP256R1())
        self.issuing = self._issue(Profile.ISSUING, "issuing", issuing_key, Issuer(self.root, root_key))
        issuer = Issuer(self.issuing, issuing_key)
        ocsp_key, self.tsa_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ocsp_certificate = self._issue(Profile.OCSP, "OCSP", ocsp_key, issuer)
        self.tsa = self._issue(Profile.TSA, "TSA", self.tsa_key, issuer)
        self.certificate = certify(Profile.SEAL, seal_subject(MEMBER, "Policia"), self.key.public_key(), issuer, self.born_us)
        self.delegate = ocsp_responder.Delegate(self.issuing, ocsp_certificate, ocsp_key)
        self.authority = CaCertificate(self.issuing, self.issuing.subject.public_bytes(), (), (), BASIC, top=False)
        self.shared = self.with_shared(self.authority)

    def _issue(self, profile: Profile, name: str, key: ec.EllipticCurvePrivateKey, issuer: Issuer) -> Certificate:
        return certify(profile, authority_subject(INSTANCE, name), key.public_key(), issuer, self.born_us)

    def with_shared(self, *cas: CaCertificate, tsas: bool = True) -> SharedParameters:
        approved = (ApprovedTsa("TSA", "http://127.0.0.1:9", self.tsa),) if tsas else ()
        return SharedParameters(INSTANCE, 6, cas, approved, {}, (), {}, self.freshness_s)

    @property
    def instance(self) -> str:
        return INSTANCE

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def confirmation(self, at_us: int, validity_s: int = 9 * 3600, revoked_us: int | None = None) -> bytes:
        """An OCSP response about the seal certificate."""
        status = ocsp_responder.CertificateStatus(revoked_us)
        request = build_request(self.certificate, self.authority)
        return ocsp_responder.answer(request, lambda _: status, self.delegate, at_us, validity_s)

    def stamp(self, data: bytes, at_us: int) -> bytes:
        """A time-stamp token over `data`."""
        answer = tsa.answer(build_stamp_request(sha512(data)), tsa.StampingKey(self.tsa, self.tsa_key), at_us, serial=7)
        return token_of_response(answer, sha512(data), self.shared.tsas)

    def sealed(self, leaves: Sequence[Sequence[Part]], at_us: int, confirmation: bytes | None = None) -> list[Seal]:
        """One signature over all of them, as a relay and the signer make it."""
        result, chains = build_batch(leaves)
        single = len(leaves) == 1 and len(leaves[0]) == 1
        signed, digest = (SIGNED_MESSAGE, leaves[0][0][1]) if single else (SIGNED_CHAIN, sha512(result))
        prepared = prepare(self.der, signed, digest, at_us, self.algorithm)
        fragment = prepared.finish(sign(self.key, prepared.to_sign, self.algorithm))
        document = complete(fragment, [self.confirmation(at_us) if confirmation is None else confirmation])
        return [Seal(document, None, None)] if single else [Seal(document, result, chain) for chain in chains]

    def container(
        self, at_us: int = NOON_US, *, body: bytes | None = None, stamped_us: int | None = None, batch_stamp: bool = False
    ) -> bytes:
        """A whole container: one message, confirmed at `at_us`, stamped at `stamped_us`."""
        attachments = [] if body is None else [body]
        (seal,) = self.sealed([parts_of(HEAD, attachments)], at_us)
        stamped_us = at_us + SECOND_US if stamped_us is None else stamped_us
        stamp_result = stamp_chain = None
        stamped = signature_value(seal.signature)
        if batch_stamp:
            stamp_result, stamp_chains = build_stamp_batch([sha512(seal.signature), sha512(b"another record")])
            stamped, stamp_chain = stamp_result, stamp_chains[0]
        return write_container(
            Contents(
                message=HEAD,
                signature=seal.signature,
                chain_result=seal.chain_result,
                chain=seal.chain,
                stamp_token=self.stamp(stamped, stamped_us),
                stamp_chain_result=stamp_result,
                stamp_chain=stamp_chain,
                attachments=attachments,
            ),
            at_us,
        )


@dataclass(frozen=True)
class Known:
    """A configuration of one instance."""

    instance: str
    shared: dict[str, SharedParameters]


def known(workshop: Workshop) -> Known:
    return Known(INSTANCE, {INSTANCE: workshop.shared})
