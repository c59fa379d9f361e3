"""A box with a TPM enrols: CEIQROO challenges, the box answers, keys of that one TPM are certified and no others."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.testing
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.errors import XacbeError
from appliance.hsm import attestation as inside
from appliance.hsm.tpm2 import TpmToken
from provisioning import attestation, enrolment, tpm_enrolment
from provisioning.__main__ import app
from provisioning.centre import Centre
from provisioning.lab import manufacturer, tokens
from provisioning.tpm_registry import TpmRegistry
from tests.hsm import parts
from tests.hsm.parts import on_loop
from tests.hsm.signer_box import SignerBox, signer_box
from tests.hsm.test_commands import xacbe
from tests.provisioning.parts import StandingClock, box_keys, csr, enrolment_request, new_key

ADDRESS = "127.0.51.21"
SERVER = "QROO-TEST/MUN/BENITO-JUAREZ/SS1"
DAY_US = 86400 * 1_000_000


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manufacturer, with its root and its issuing authority."""
    if manufacturer.missing():
        pytest.skip(str(manufacturer.missing()))
    return tmp_path_factory.mktemp("manufacturer")


@pytest.fixture(scope="module")
def made_tpm(maker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmToken]:
    """A TPM as it leaves the factory, alone in this process."""
    place = tmp_path_factory.mktemp("tpm")
    planned = tokens.prepare_swtpm(place / "tpm", maker)
    with parts.running(planned), parts.opened(planned, place / "keys") as token:
        assert isinstance(token, TpmToken)
        yield token


def ceiqroo(*words: object) -> tuple[int, str]:
    """Exit code and output of CEIQROO's command, in this process: a new one costs a second each; the kind of a refusal instead."""
    done = typer.testing.CliRunner().invoke(app, [str(word) for word in words])
    return (1, done.exception.kind) if isinstance(done.exception, XacbeError) else (done.exit_code, done.output)


@pytest.mark.rule("IV.3.II-IV")
@on_loop
async def test_a_box_enrols_by_the_commands_and_its_keys_are_of_its_tpm(own_centre: Centre, maker: Path, tmp_path: Path) -> None:
    place, files = (
        own_centre.directory,
        {name: tmp_path / f"{name}.json" for name in ("request", "challenge", "answer", "approval", "quote")},
    )
    planned = tokens.prepare_swtpm(tmp_path / "tpm", maker)
    assert ceiqroo("tpm", "trust", place, *manufacturer.authorities(maker))[0] == 0
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            assert (await xacbe(box, "enrolment", "request", "--out", str(files["request"])))[0] == 0
            approve = "enrolment", "approve", place, files["request"], "--address", ADDRESS, "--out", files["approval"]
            assert ceiqroo(*approve) == (1, "attestation.no_answer")
            assert ceiqroo("enrolment", "challenge", place, files["request"], "--out", files["challenge"])[0] == 0
            code, _, err = await xacbe(box, "attestation", "answer", str(files["challenge"]), "--out", str(files["answer"]))
            assert (code, err) == (0, "")
            code, out = ceiqroo(*approve, "--answer", files["answer"])
            assert (code, "TPM comprobado" in out) == (0, True), out
            assert ceiqroo(*approve, "--answer", files["answer"]) == (1, "attestation.no_answer"), "an answer serves once"

            (known,) = json.loads(ceiqroo("tpm", "list", place, "--json")[1])
            shown = json.loads((await xacbe(box, "attestation", "show", "--json"))[1])
            assert (known["server"], known["endorsement_sha256"]) == (SERVER, shown["endorsement_sha256"])
            assert "swtpm-localca" in shown["manufacturer"]

            nonce = "ab" * 32
            assert (await xacbe(box, "attestation", "quote", "--nonce", nonce, "--out", str(files["quote"])))[0] == 0
            assert ceiqroo("tpm", "check", place, SERVER, files["quote"], "--nonce", nonce)[0] == 0
            assert ceiqroo("tpm", "check", place, SERVER, files["quote"], "--nonce", "cd" * 32) == (1, "attestation.unverified")
            await _extend(planned.sockets[0])
            assert (await xacbe(box, "attestation", "quote", "--nonce", nonce, "--out", str(files["quote"])))[0] == 0
            code, out = ceiqroo("tpm", "check", place, SERVER, files["quote"], "--nonce", nonce)
            assert (code, out.startswith("PCR 7: ")) == (1, True)
            await _renewal(box, place, files["approval"], tmp_path)


async def _renewal(box: SignerBox, place: Path, approval: Path, files: Path) -> None:
    """New keys are certified for a box that was enrolled with a TPM with its TPM's word only."""
    certificate = json.loads(approval.read_text())["certificates"]["tls-report"]
    (files / "report.der").write_bytes(base64.b64decode(certificate))
    assert (await xacbe(box, "key", "import-cert", "tls-report", str(files / "report.der")))[0] == 0
    asked = files / "renewal.json"
    assert (await xacbe(box, "key", "renew", "tls-report", "--out", str(asked)))[0] == 0
    assert ceiqroo("enrolment", "renew", place, asked, "--out", files / "renewed.json")[0] == 0
    foreign = {"server": SERVER, "requests": {"tls-report": base64.b64encode(csr(new_key())).decode()}}
    for document, kind in (
        (foreign, "attestation.no_tpm"),
        (json.loads(asked.read_text()) | {"requests": foreign["requests"]}, "attestation.unverified"),
    ):
        asked.write_text(json.dumps(document))
        assert ceiqroo("enrolment", "renew", place, asked, "--out", files / "renewed.json") == (1, kind)


async def _extend(sock: Path) -> None:
    """Something else was booted."""
    done = subprocess.run(
        ["tpm2_pcrextend", "-T", f"swtpm:path={sock}", "7:sha256=" + "11" * 32], capture_output=True, check=False, timeout=20
    )
    assert done.returncode == 0, done.stderr


class Bench:
    """A box's request made from a TPM in this process, and CEIQROO's steps."""

    def __init__(self, centre: Centre, maker: Path, tpm: TpmToken) -> None:
        self.centre, self.tpm, self.clock = centre, tpm, StandingClock()
        centre.manufacturers_directory.mkdir()
        for file in manufacturer.authorities(maker):
            (centre.manufacturers_directory / file.name).write_bytes(file.read_bytes())
        keys = box_keys("seal/MUN/TULUM", "tls-peer")
        self.document: dict[str, Any] = enrolment_request(keys)
        identity = tpm.attest(inside.identify)
        self.document["tpm"] = {
            "endorsement_public": _text(identity.endorsement_public),
            "endorsement_certificate": _text(identity.endorsement_certificate),
            "attestation_public": _text(identity.attestation_public),
            "keys": {},
        }

    def own_keys(self) -> None:
        """Keys of the TPM instead of keys of nowhere."""
        for label in self.document["requests"]:
            if label not in {key.label for key in self.tpm.keys()}:
                self.tpm.generate(label, "EC-P256")
            der = _request_of(self.tpm, label)
            self.document["requests"][label] = _text(der)
            qualifying = hashlib.sha256(der).digest()
            said = self.tpm.attest_key(label, lambda c, h, p, q=qualifying: inside.certify(c, h, p, q))
            self.document["tpm"]["keys"][label] = {
                "public": _text(said.public),
                "attested": _text(said.attested),
                "signature": _text(said.signature),
            }

    @property
    def request(self) -> enrolment.EnrolmentRequest:
        return enrolment.read_request(json.dumps(self.document).encode())

    def challenge(self, vouched: bytes = b"") -> dict[str, Any]:
        return enrolment.challenge(self.centre, self.request, self.clock, vouched)

    def answer(self, challenge: dict[str, Any]) -> tpm_enrolment.Answer:
        told = self.tpm.attest(lambda context: inside.activate(context, challenge["blob"], challenge["secret"]))
        made = self.tpm.attest(lambda context: inside.quote(context, challenge["nonce"]))
        quote = tpm_enrolment.QuoteClaim(made.attested, made.signature, made.values)
        return tpm_enrolment.Answer(challenge["server"], challenge["request_sha256"], told, quote)

    def refused(self, answer: tpm_enrolment.Answer | None, **more: Any) -> str:
        with pytest.raises(XacbeError) as refused:
            self.approve(answer, **more)
        with self.centre.registry() as registry:
            assert {one.holder for one in registry.certificates()} == {"CEIQROO"}
        return refused.value.kind

    def approve(self, answer: tpm_enrolment.Answer | None, **more: Any) -> dict[str, Any]:
        return enrolment.approve(self.centre, self.request, ADDRESS, self.clock, answer=answer, **more)


@pytest.fixture
def bench(own_centre: Centre, maker: Path, made_tpm: TpmToken) -> Bench:
    return Bench(own_centre, maker, made_tpm)


def test_a_key_that_does_not_live_in_the_tpm_gets_no_certificate(bench: Bench) -> None:
    answer = bench.answer(bench.challenge())
    assert bench.refused(answer) == "attestation.unverified"  # nobody vouches for the keys
    bench.own_keys()
    outside = _text(csr(new_key()))
    true, bench.document["requests"]["tls-peer"] = bench.document["requests"]["tls-peer"], outside
    assert bench.refused(bench.answer(bench.challenge())) == "attestation.unverified"  # the word is for another request
    bench.document["requests"]["tls-peer"] = true
    said = bench.document["tpm"]["keys"]
    said["tls-peer"], kept = said["seal/MUN/TULUM"], said["tls-peer"]
    assert bench.refused(bench.answer(bench.challenge())) == "attestation.unverified"  # the word for one key does not serve another
    said["tls-peer"] = kept
    assert len(bench.approve(bench.answer(bench.challenge()))["certificates"]) == 2


def test_an_answer_is_to_the_last_challenge_for_this_request_and_in_time(bench: Bench) -> None:
    bench.own_keys()
    first = bench.answer(bench.challenge())
    second = bench.answer(bench.challenge())
    assert bench.refused(None) == "attestation.no_answer"
    assert bench.refused(first) == "attestation.unverified"
    wrong = msgspec.structs.replace(second, credential=bytes(32))
    assert bench.refused(wrong) == "attestation.unverified"
    old = msgspec.structs.replace(second, quote=first.quote)
    assert bench.refused(old) == "attestation.unverified"
    bench.clock.us += 8 * DAY_US
    assert bench.refused(second) == "attestation.unverified"
    bench.clock.us -= 8 * DAY_US
    bench.approve(second)


def test_a_box_keeps_its_tpm_until_an_officer_says_otherwise(bench: Bench, maker: Path, tmp_path: Path) -> None:
    bench.own_keys()
    bench.approve(bench.answer(bench.challenge()))
    without = {**bench.document, "tpm": None}
    with pytest.raises(XacbeError) as refused:
        enrolment.approve(bench.centre, without, ADDRESS, bench.clock)
    assert refused.value.kind == "attestation.no_tpm"
    bench.document["server"] = "QROO-TEST/MUN/TULUM/SS2"
    with pytest.raises(XacbeError) as refused:
        bench.approve(bench.answer(bench.challenge()))
    assert refused.value.kind in ("attestation.other_tpm", "request.key_reused"), "one TPM is one box"
    bench.document["server"] = "QROO-TEST/MUN/TULUM/SS1"
    planned = tokens.prepare_swtpm(tmp_path / "other", maker)
    with parts.running(planned), parts.opened(planned, tmp_path / "other-keys") as other:
        assert isinstance(other, TpmToken)
        bench.tpm = other
        bench.document["tpm"] |= {
            name: _text(getattr(other.attest(inside.identify), name)) for name in bench.document["tpm"] if name != "keys"
        }
        bench.own_keys()
        answer = bench.answer(bench.challenge())
        with pytest.raises(XacbeError) as refused:
            bench.approve(answer)
        assert refused.value.kind == "attestation.other_tpm"
        bench.approve(answer, replace_tpm=True)
        with bench.centre.registry() as registry:
            known = TpmRegistry(registry).of("QROO-TEST/MUN/TULUM/SS1")
        assert known is not None
        assert known.endorsement_public == other.attest(inside.identify).endorsement_public


def test_an_endorsement_key_without_certificate_is_an_officers_word(bench: Bench) -> None:
    bench.own_keys()
    bench.document["tpm"]["endorsement_certificate"] = ""
    with pytest.raises(attestation.AttestationError):
        bench.challenge()
    with pytest.raises(attestation.AttestationError):
        bench.challenge(bytes(32))
    name = hashlib.sha256(base64.b64decode(bench.document["tpm"]["endorsement_public"])).digest()
    bench.approve(bench.answer(bench.challenge(name)))


def test_the_makers_root_must_be_known_and_every_authority_in_force(made_tpm: TpmToken, maker: Path) -> None:
    identity = made_tpm.attest(inside.identify)
    issuer, root = (x509.load_pem_x509_certificate(file.read_bytes()) for file in manufacturer.authorities(maker))
    now_us = StandingClock().us

    def check(makers: list[x509.Certificate], at_us: int = now_us) -> None:
        attestation.check_endorsement(identity.endorsement_certificate, identity.endorsement_public, makers, at_us)

    check([issuer, root])
    own = x509.load_der_x509_certificate(identity.endorsement_certificate)
    for makers, at_us in (([], now_us), ([issuer], now_us), ([root], now_us), ([own], now_us), ([issuer, root], 0)):
        with pytest.raises(attestation.AttestationError):
            check(makers, at_us)
    with pytest.raises(attestation.AttestationError):
        attestation.check_endorsement(root.public_bytes(Encoding.DER), identity.endorsement_public, [root], now_us)


def test_tpm2_makecredential_seals_what_the_box_tells(made_tpm: TpmToken, tmp_path: Path) -> None:
    from tpm2_pytss import TPM2B_PUBLIC

    identity = made_tpm.attest(inside.identify)
    (tmp_path / "ek.pub").write_bytes(identity.endorsement_public)
    (tmp_path / "secret").write_bytes(b"sixteen bytes...")
    name = bytes(TPM2B_PUBLIC.unmarshal(identity.attestation_public)[0].get_name()).hex()
    command = ["tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n", name, "-o", "sealed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    sealed = (tmp_path / "sealed").read_bytes()[8:]  # magic and version of the tool's own file
    size = 2 + int.from_bytes(sealed[:2])
    assert made_tpm.attest(lambda context: inside.activate(context, sealed[:size], sealed[size:])) == b"sixteen bytes..."


def test_arbitrary_documents_are_one_named_error() -> None:
    for document in (b"", b"{}", b"\xff", b'{"server": 1}', b"[" * 4000):
        with pytest.raises(attestation.AttestationError):
            tpm_enrolment.read_answer(document)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _request_of(tpm: TpmToken, label: str) -> bytes:
    from appliance.hsm import pkcs10

    public = next(key.public_key for key in tpm.keys() if key.label == label)

    def sign(hash_name: str, to_be_signed: bytes) -> bytes:
        return tpm.sign_digest(label, parts.digest_of(to_be_signed, hash_name), hash_name)

    return pkcs10.request(label, "EC-P256", public, [("2.5.4.3", "box")], [], sign)
