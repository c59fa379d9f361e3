"""CEIQROO's certification authority: makes an instance's keys and certificates, and certifies what enrolment hands it.

I/O. Two levels: the root signs the issuing authority once and then goes into a safe (`root/`); the issuing authority (path length 0) signs
everything else. Boxes are given the issuing authority as the anchor of every path (sheet 5.3). In the laboratory the services' keys are
files, 0600; production keeps them in an HSM (README.md). Rules I.4.XIII, IV.3.II-IV.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance import durable
from appliance.clock import Clock, to_us
from appliance.errors import RefusedError
from provisioning import publication
from provisioning.authority.profiles import OWNER, BoxPublicKey, Issuer, Profile, authority_subject, certify
from provisioning.centre import REGISTRY_FILE, SETTINGS_FILE, Centre, CentreSettings, Parameters
from provisioning.members import seed
from provisioning.records import ApprovedAuthority, ApprovedStamping, IssuedCertificate
from provisioning.registry import Registry

BASIC_PROFILE = "ee.ria.xroad.common.certificateprofile.impl.BasicCertificateProfileInfoProvider"
"""How X-Road reads members out of the subjects that `profiles.seal_subject` writes (sheet 5.5)."""

MONITOR_NAME = "monitor"
"""Common name of the fleet monitor's client certificate: the broker grants it every topic of the instance."""

_SERVICES = {
    Profile.OCSP: "OCSP responder",
    Profile.TSA: "time-stamping authority",
    Profile.BROKER: "broker",
    Profile.MONITOR: MONITOR_NAME,
    Profile.WEB: "distribution of the configuration",
}


class CentreExistsError(RefusedError):
    """The directory already holds a centre: its keys are never overwritten."""

    kind = "centre.exists"


def initialise(
    directory: Path,
    instance: str,
    address: str,
    clock: Clock,
    *,
    configuration_port: int = 8000,
    ocsp_port: int = 8888,
    tsa_port: int = 8899,
    broker_host: str = "",
    broker_port: int = 8883,
    parameters: Parameters | None = None,
    with_members: bool = True,
) -> Centre:
    """Makes a whole instance in `directory`: keys, certificates, registry (with Quintana Roo's members), approved services.

    The settings are written last: a directory without them is unfinished, and `Centre.open` says so. Raises CentreExistsError.
    """
    settings = CentreSettings(
        instance=instance,
        address=address,
        initialised_us=clock.now_us(),
        configuration_port=configuration_port,
        ocsp_port=ocsp_port,
        tsa_port=tsa_port,
        broker_host=broker_host or address,
        broker_port=broker_port,
        parameters=parameters or Parameters(),
    )
    if (directory / SETTINGS_FILE).exists() or (directory / "root").exists():
        raise CentreExistsError(f"{directory} already holds a centre, or an unfinished one")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("root", "keys", "certificates"):
        durable.make_directory(directory / name)
    centre = Centre(directory, settings)
    with Registry(directory / REGISTRY_FILE) as registry:
        registry.create(instance)
        if with_members:
            seed(registry)
        _make_services(centre, registry, _make_authorities(centre))
    _write_public_files(centre)
    durable.write_file(directory / SETTINGS_FILE, msgspec.json.format(msgspec.json.encode(settings)))
    return centre


def issuer(centre: Centre) -> Issuer:
    """The issuing authority with its key: for enrolment only; the services never load it."""
    return Issuer(centre.certificate(Profile.ISSUING), centre.key(Profile.ISSUING))


def issue(
    registry: Registry,
    authority: Issuer,
    profile: Profile,
    subject: x509.Name,
    public_key: BoxPublicKey,
    *,
    holder: str,
    now_us: int,
    ocsp_url: str,
    names: tuple[str, ...] = (),
) -> x509.Certificate:
    """Certifies a key and enters the certificate: only what is in the registry is ever answered `good`."""
    certificate = certify(profile, subject, public_key, authority, now_us, names=names, ocsp_url=ocsp_url)
    registry.add_certificate(_entry(certificate, profile, holder, now_us))
    return certificate


def key_sha256(public_key: BoxPublicKey) -> bytes:
    """Names a public key: SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _make_authorities(centre: Centre) -> Issuer:
    instance, now_us = centre.instance, centre.settings.initialised_us
    root_key = _new_key(centre, Profile.ROOT)
    root = certify(Profile.ROOT, authority_subject(instance, "root"), root_key.public_key(), root_key, now_us)
    _keep(centre, Profile.ROOT, root)
    key = _new_key(centre, Profile.ISSUING)
    subject = authority_subject(instance, "issuing authority")
    issuing = certify(Profile.ISSUING, subject, key.public_key(), Issuer(root, root_key), now_us)
    _keep(centre, Profile.ISSUING, issuing)
    return Issuer(issuing, key)


def _make_services(centre: Centre, registry: Registry, authority: Issuer) -> None:
    now_us = centre.settings.initialised_us
    made: dict[Profile, bytes] = {}
    for profile, name in _SERVICES.items():
        certificate = issue(
            registry,
            authority,
            profile,
            authority_subject(centre.instance, name) if profile is not Profile.MONITOR else _monitor_subject(),
            _new_key(centre, profile).public_key(),
            holder=OWNER,
            now_us=now_us,
            ocsp_url=centre.ocsp_url,
            names=_names(centre, profile),
        )
        made[profile] = _keep(centre, profile, certificate)
    key = _new_key(centre, Profile.CONFIGURATION)
    subject = authority_subject(centre.instance, "global configuration")
    _keep(centre, Profile.CONFIGURATION, certify(Profile.CONFIGURATION, subject, key.public_key(), key, now_us))
    _approve(centre, registry, made)


def _names(centre: Centre, profile: Profile) -> tuple[str, ...]:
    """What clients ask for by TLS: the broker's host, and ours."""
    return {Profile.BROKER: (centre.settings.broker_host,), Profile.WEB: (centre.settings.address,)}.get(profile, ())


def _approve(centre: Centre, registry: Registry, made: dict[Profile, bytes]) -> None:
    name = f"{OWNER} {centre.instance}"
    top = centre.certificate_file(Profile.ROOT).read_bytes()
    issuing = centre.certificate_file(Profile.ISSUING).read_bytes()
    registry.approve_authority(ApprovedAuthority(top, None, name, BASIC_PROFILE, centre.ocsp_url, None))
    registry.approve_authority(ApprovedAuthority(issuing, top, name, BASIC_PROFILE, centre.ocsp_url, made[Profile.OCSP]))
    registry.approve_stamping(ApprovedStamping(f"{name} TSA", centre.tsa_url, made[Profile.TSA]))


def _monitor_subject() -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, MONITOR_NAME)])


def _new_key(centre: Centre, profile: Profile) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    durable.write_file(centre.key_file(profile), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _keep(centre: Centre, profile: Profile, certificate: x509.Certificate) -> bytes:
    der = certificate.public_bytes(Encoding.DER)
    durable.write_file(centre.certificate_file(profile), der, 0o644)
    durable.write_file(centre.certificate_file(profile, "pem"), certificate.public_bytes(Encoding.PEM), 0o644)
    return der


def _write_public_files(centre: Centre) -> None:
    authorities = (centre.certificate(profile).public_bytes(Encoding.PEM) for profile in (Profile.ISSUING, Profile.ROOT))
    durable.write_file(centre.authorities_file, b"".join(authorities), 0o644)
    durable.write_file(centre.anchor_file, publication.anchor(centre), 0o644)


def _entry(certificate: x509.Certificate, profile: Profile, holder: str, now_us: int) -> IssuedCertificate:
    public_key = certificate.public_key()
    if not isinstance(public_key, BoxPublicKey):
        raise RuntimeError("a certificate with a key that profiles never accept")
    return IssuedCertificate(
        serial=certificate.serial_number,
        profile=profile,
        holder=holder,
        key_sha256=key_sha256(public_key),
        der=certificate.public_bytes(Encoding.DER),
        issued_us=now_us,
        not_after_us=to_us(certificate.not_valid_after_utc),
    )
