"""One suite for every maker, with real mathematics: software, SoftHSM2 behind p11-kit server, swtpm."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from appliance.errors import SettingsError
from appliance.hsm.token import (
    ALGORITHMS,
    HMAC_SHA256,
    KeyExistsError,
    KeyMissingError,
    MechanismMissingError,
    Token,
    TokenAbsentError,
    TokenKey,
)
from tests.hsm import parts
from tests.hsm.parts import TokenProcess

SEAL = "seal/MUN/BENITO-JUAREZ"


@pytest.mark.parametrize("hash_name", parts.HASHES)
@pytest.mark.parametrize("algorithm", ["EC-P256", "EC-P384", "RSA-2048"])
def test_a_signature_verifies_under_the_public_key_that_the_token_shows(token: Token, algorithm: str, hash_name: str) -> None:
    key = token.generate(SEAL, algorithm)
    digest = parts.digest_of(b"a message", hash_name)

    signature = token.sign_digest(SEAL, digest, hash_name)

    parts.verify(key.public_key, signature, digest, hash_name)
    assert [(one.label, one.algorithm, one.public_key) for one in token.keys()] == [(SEAL, algorithm, key.public_key)]


def test_ecdsa_over_sha512_with_p256_is_what_openssl_calls_ecdsa_with_sha512(token: Token) -> None:
    key = load_der_public_key(token.generate(SEAL, "EC-P256").public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)

    signature = token.sign_digest(SEAL, parts.digest_of(b"SignedInfo"), "sha512")

    key.verify(signature, b"SignedInfo", ec.ECDSA(parts.HASHES["sha512"]))


def test_public_keys_name_their_curve(token: Token) -> None:
    made = token.generate(SEAL, "EC-P256").public_key

    prime256v1 = bytes.fromhex("06082a8648ce3d030107")
    assert prime256v1 in made
    assert len(made) == 91


def test_keys_have_names_of_their_own_and_are_never_overwritten(token: Token) -> None:
    first, second = token.generate(SEAL, "EC-P256"), token.generate("tls-peer", "EC-P256")

    with pytest.raises(KeyExistsError):
        token.generate(SEAL, "EC-P256")

    assert {key.label: key.public_key for key in token.keys()} == {SEAL: first.public_key, "tls-peer": second.public_key}
    digest = parts.digest_of(b"m")
    parts.verify(second.public_key, token.sign_digest("tls-peer", digest, "sha512"), digest, "sha512")


def test_more_keys_than_a_tpm_holds_at_once_all_sign(token: Token) -> None:
    made = {label: token.generate(label, "EC-P256") for label in (SEAL, "tls-peer", "tls-internal", "tls-report", "log")}
    digest = parts.digest_of(b"m")

    for label in [*made, *made]:
        parts.verify(made[label].public_key, token.sign_digest(label, digest, "sha512"), digest, "sha512")


def test_a_secret_key_macs_and_is_not_readable(token: Token) -> None:
    made = token.generate("wrap", HMAC_SHA256)

    first, again, other = (token.mac("wrap", data) for data in (b"salt", b"salt", b"another"))

    assert first == again != other
    assert len(first) == 32
    assert [*token.keys()] == [made] == [TokenKey("wrap", HMAC_SHA256, b"")]
    with pytest.raises(KeyMissingError):
        token.sign_digest("wrap", parts.digest_of(b"m"), "sha512")
    with pytest.raises(KeyMissingError):
        token.mac("log", b"salt")
    token.delete("wrap")
    assert [*token.keys()] == []


def test_a_token_shows_itself_among_those_within_reach(token: Token) -> None:
    (mine,) = [one for one in token.seen() if one.chosen]

    assert (mine.state, mine.maker, bool(mine.model)) == ("ready", token.check().maker, True)


def test_a_deleted_key_is_gone(token: Token) -> None:
    token.generate(SEAL, "EC-P256")

    token.delete(SEAL)

    assert [*token.keys()] == []
    with pytest.raises(KeyMissingError):
        token.sign_digest(SEAL, parts.digest_of(b"m"), "sha512")
    with pytest.raises(KeyMissingError):
        token.delete(SEAL)


def test_what_is_no_digest_of_that_hash_is_not_signed(token: Token) -> None:
    token.generate(SEAL, "EC-P256")

    for wrong in (b"", bytes(20), bytes(63)):
        with pytest.raises(MechanismMissingError):
            token.sign_digest(SEAL, wrong, "sha512")
    with pytest.raises(MechanismMissingError):
        token.sign_digest(SEAL, bytes(16), "md5")
    with pytest.raises(MechanismMissingError):
        token.generate("tls-peer", "EC-P521")


def test_keys_are_there_again_in_another_run(token_process: TokenProcess, tmp_path: Path) -> None:
    with parts.opened(token_process.plan, tmp_path / "keys") as first:
        first.login(parts.PIN)
        made = [first.generate(f"seal/MUN/{number}", algorithm) for number, algorithm in enumerate(ALGORITHMS[:3])]
    token_process.unplug()
    token_process.start()

    with parts.opened(token_process.plan, tmp_path / "keys") as second:
        second.login(parts.PIN)
        assert sorted(second.keys(), key=lambda key: key.label) == made


def test_no_file_of_the_box_holds_private_key_bytes(tmp_path: Path) -> None:
    """The software maker is the counter-example: what is looked for is what it writes."""
    with parts.opened(parts.plan("software", tmp_path), tmp_path / "software") as token:
        token.generate(SEAL, "EC-P256")
    pkcs8 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    assert any(pkcs8 in file.read_bytes() for file in (tmp_path / "software").rglob("*.key"))

    with parts.running(parts.plan("swtpm", tmp_path / "token")) as process:
        with parts.opened(process.plan, tmp_path / "keys") as token:
            token.generate(SEAL, "EC-P256")
        assert not any(pkcs8 in file.read_bytes() for file in (tmp_path / "keys").rglob("*") if file.is_file())


def test_a_software_token_is_refused_in_the_production_instance(tmp_path: Path) -> None:
    from appliance.hsm.software import SoftwareToken

    with pytest.raises(SettingsError, match="production"):
        SoftwareToken("QROO", tmp_path)


def test_a_token_is_named_and_never_the_first_that_is_there(tmp_path: Path) -> None:
    from appliance.hsm.pkcs11 import Pkcs11Token

    planned = parts.plan("softhsm", tmp_path / "token")
    with pytest.raises(SettingsError, match="token_label"):
        Pkcs11Token(planned.settings["module"])
    with parts.running(planned):
        other = Pkcs11Token(planned.settings["module"], label="another", address=planned.settings["module_address"])
        with pytest.raises(TokenAbsentError):
            other.login(parts.PIN)
        other.close()


@pytest.mark.parametrize("kind", ["softhsm", "swtpm"])
def test_a_token_is_reached_below_a_directory_of_any_length(kind: str, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(str(deep / "token.sock")) > 107

    with parts.running(parts.plan(kind, deep)) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        token.generate(SEAL, "EC-P256")
