"""The questions about a signature that need the global configuration: whose is it, and was its certificate good at that moment.

Pure. Sheet 4.7, 5.2-5.5. Asked by relays at message time (the moment is now) and about containers (the moment is the time stamp).
"""

from __future__ import annotations

from cryptography import x509

from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.model.identifiers import ClientId
from appliance.seal.signature import Signature
from appliance.trust.certificate_profiles import member_of
from appliance.trust.chains import ChainUntrustedError, check_path, is_signing_certificate
from appliance.trust.global_configuration import CaCertificate, SharedParameters
from appliance.trust.ocsp import OcspFacts, OcspMismatchError, check_response


class KeyUsageError(UnverifiedError):
    """The certificate is not one for signing (no nonRepudiation)."""

    kind = "seal.key_usage"


class WrongSignerError(UnverifiedError):
    """Sealed by another member than the one that the message names."""

    kind = "seal.wrong_signer"


class NoOcspError(UnverifiedError):
    """The signature carries no OCSP response."""

    kind = "seal.no_ocsp"


def signing_certificate(signature: Signature) -> x509.Certificate:
    """The certificate inside. Raises CertificateMalformedError, KeyUsageError."""
    certificate = certificates.read(signature.certificate)
    if not is_signing_certificate(certificate):
        raise KeyUsageError("the certificate is not for signing")
    return certificate


def check_member(certificate: x509.Certificate, sender: ClientId, shared: SharedParameters) -> ClientId:
    """The member that the certificate names, which must be the sender's (subsystem aside).

    Raises ChainUntrustedError, CertificateProfileError, WrongSignerError.
    """
    issuer = shared.ca_by_subject(certificate.issuer.public_bytes())
    if issuer is None:
        raise ChainUntrustedError("not issued by an approved certification service")
    member = member_of(certificate, issuer.profile, sender)
    if member != sender.member:
        raise WrongSignerError(f"sealed by {member}, sent by {sender.member}")
    return member


def check_certificate_path(certificate: x509.Certificate, shared: SharedParameters, at_us: int) -> CaCertificate:
    """The approved issuer, which is the trust anchor: certificates that came along are never used. Raises ChainError kinds (`chain.*`)."""
    return check_path(certificate, (), shared, at_us)[0][1]


def check_status(
    signature: Signature, certificate: x509.Certificate, issuer: CaCertificate, shared: SharedParameters, at_us: int
) -> OcspFacts:
    """The response about the signing certificate among those that came, in any order. Raises NoOcspError and `ocsp.*`."""
    if not signature.ocsp_responses:
        raise NoOcspError("the signature carries no OCSP response")
    for response in signature.ocsp_responses:
        try:
            return check_response(response, certificate, issuer, shared, at_us)
        except OcspMismatchError:
            continue  # about an intermediate, or about nobody here
    raise OcspMismatchError("no OCSP response about the signing certificate")
