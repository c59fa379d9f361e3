"""A box proves which TPM it has and what was measured: swtpm on its side, CEIQROO's checks and tpm2-tools on the other."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TPM2B_PUBLIC

from appliance.errors import XacbeError
from appliance.hsm import attestation
from appliance.hsm.token import MechanismMissingError
from appliance.hsm.tpm2 import TpmToken
from appliance.hsm.wire import CredentialChallenge, QuoteReply, QuoteRequest, TpmIdentity
from provisioning import attestation as centre
from provisioning.attestation import AttestationError
from tests.hsm import parts
from tests.hsm.signer_box import signer_box
from tests.provisioning.parts import NOW_US

NONCE = bytes(range(20))


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[TpmToken]:
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned), parts.opened(planned, tmp_path / "keys") as token:
        assert isinstance(token, TpmToken)
        yield token


def test_a_credential_is_told_by_the_one_tpm_and_by_no_other(tpm: TpmToken, tmp_path: Path) -> None:
    for label in ("log", "tls-peer", "tls-internal"):
        tpm.generate(label, "EC-P256")
        tpm.sign_digest(label, parts.digest_of(b"m"), "sha512")  # the TPM is full of keys that are in use
    identity = tpm.attest(attestation.identify)
    assert identity == tpm.attest(attestation.identify), "derived: the same at each use"
    credential = os.urandom(centre.CREDENTIAL_BYTES)
    blob, secret = centre.challenge(identity.endorsement_public, identity.attestation_public, credential)

    answer = tpm.attest(lambda context: attestation.activate(context, blob, secret))

    centre.check_answer(credential, answer)
    with pytest.raises(AttestationError):
        centre.check_answer(credential, bytes(32))
    parts.verify(tpm.keys()[0].public_key, tpm.sign_digest("log", parts.digest_of(b"m"), "sha512"), parts.digest_of(b"m"), "sha512")
    planned = parts.plan("swtpm", tmp_path / "other")
    with parts.running(planned), parts.opened(planned, tmp_path / "other-keys") as other:
        assert isinstance(other, TpmToken)
        assert other.attest(attestation.identify) != identity
        with pytest.raises(Exception, match="TPM"):
            other.attest(lambda context: attestation.activate(context, blob, secret))


def test_a_quote_holds_for_its_key_its_nonce_and_its_values_only(tpm: TpmToken) -> None:
    public = tpm.attest(attestation.identify).attestation_public
    made = tpm.attest(lambda context: attestation.quote(context, NONCE))
    assert sorted(made.values) == [*attestation.PCRS]

    centre.check_quote(public, made.attested, made.signature, NONCE, made.values)

    flipped = bytes([made.attested[-1] ^ 1])
    for wrong, nonce in (
        (replace(made, attested=made.attested[:-1] + flipped), NONCE),
        (replace(made, values=made.values | {0: bytes(31) + b"\1"}), NONCE),
        (replace(made, values={number: made.values[number] for number in range(7)}), NONCE),
        (replace(made, signature=b""), NONCE),
        (made, bytes(20)),
    ):
        with pytest.raises(AttestationError):
            centre.check_quote(public, wrong.attested, wrong.signature, nonce, wrong.values)
    with pytest.raises(MechanismMissingError):
        tpm.attest(lambda context: attestation.quote(context, b"short"))


def test_a_key_that_signs_what_it_is_told_is_no_attestation_key(tpm: TpmToken) -> None:
    tpm.generate("log", "EC-P256")
    identity = tpm.attest(attestation.identify)
    with pytest.raises(AttestationError):
        centre.challenge(identity.endorsement_public, tpm.public_area("log"), bytes(32))


def test_tpm2_checkquote_believes_it_too(tpm: TpmToken, tmp_path: Path) -> None:
    if shutil.which("tpm2_checkquote") is None:
        pytest.skip("tpm2-tools not installed")
    public, _ = TPM2B_PUBLIC.unmarshal(tpm.attest(attestation.identify).attestation_public)
    made = tpm.attest(lambda context: attestation.quote(context, NONCE))
    (tmp_path / "ak.pem").write_bytes(public.publicArea.to_pem())
    (tmp_path / "quote.msg").write_bytes(made.attested)
    (tmp_path / "quote.sig").write_bytes(made.signature)

    def judged(nonce: bytes) -> int:
        command = ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-g", "sha256", "-q", nonce.hex()]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=20).returncode

    assert judged(NONCE) == 0
    assert judged(bytes(20)) != 0


def test_an_endorsement_certificate_is_for_its_key_and_of_a_known_manufacturer(tpm: TpmToken) -> None:
    identity = tpm.attest(attestation.identify)
    public, _ = TPM2B_PUBLIC.unmarshal(identity.endorsement_public)
    endorsement = load_der_public_key(public.publicArea.to_der())
    assert isinstance(endorsement, ec.EllipticCurvePublicKey)
    (maker, authority), (_, stranger) = _authority(), _authority()
    certificate = _issued(maker, authority, endorsement)

    centre.check_endorsement(certificate, identity.endorsement_public, [stranger, authority], NOW_US)

    other = _issued(maker, authority, ec.generate_private_key(ec.SECP256R1()).public_key())
    for der, makers in ((certificate, [stranger]), (other, [authority]), (b"junk", [authority])):
        with pytest.raises(AttestationError):
            centre.check_endorsement(der, identity.endorsement_public, makers, NOW_US)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_arbitrary_bytes_are_one_named_error(public: bytes, attested: bytes, signature: bytes) -> None:
    with pytest.raises(AttestationError):
        centre.check_quote(public, attested, signature, NONCE, {0: bytes(32)})


def _authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, x509.load_der_x509_certificate(_issued(key, None, key.public_key()))


def _issued(key: ec.EllipticCurvePrivateKey, authority: x509.Certificate | None, public: ec.EllipticCurvePublicKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "maker")])
    first = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(authority.subject if authority else name).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(first + timedelta(days=9000))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@parts.on_loop
async def test_the_signer_attests_where_its_token_is_a_tpm(tmp_path: Path) -> None:
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            await box.with_key()
            console, reporter = box.client("console"), box.client("reporter")
            identity = await console.call("tpm_identity", None, TpmIdentity)
            credential = os.urandom(centre.CREDENTIAL_BYTES)
            blob, secret = centre.challenge(identity.endorsement_public, identity.attestation_public, credential)
            centre.check_answer(credential, await console.call("activate_credential", CredentialChallenge(blob, secret), bytes))
            quoted = await reporter.call("quote", QuoteRequest(NONCE), QuoteReply)
            centre.check_quote(identity.attestation_public, quoted.attested, quoted.signature, NONCE, quoted.values)
            await box.until_audited("token.credential_activation_asked", "token.quoted")
            with pytest.raises(XacbeError) as refused:
                await reporter.call("activate_credential", CredentialChallenge(blob, secret), bytes)
            assert refused.value.kind == "caller.not_granted"


@parts.on_loop
async def test_another_token_says_that_it_does_not_attest(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        with pytest.raises(XacbeError) as refused:
            await box.client("console").call("tpm_identity", None, TpmIdentity)
        assert refused.value.kind == "token.mechanism_missing"
