"""TLS handshakes with a key that Python never sees: mutual TLS 1.3 in memory, and every way in which the callback may fail."""

from __future__ import annotations

import gc
import ssl
import threading
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.hsm.software import SoftwareToken
from appliance.hsm.token import MechanismMissingError, TokenAbsentError
from appliance.net import token_key
from appliance.net.token_key import Sign, self_test, use_token_key
from tests.hsm import parts

NOW = datetime.now(UTC)  # noqa: TID251  certificates for the ssl module, which reads the real clock


class Authority:
    """A CA with an intermediate, for chains."""

    def __init__(self) -> None:
        self.root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = _certificate("root", self.root_key.public_key(), "root", self.root_key, ca=True)
        self.intermediate = _certificate("intermediate", self.key.public_key(), "root", self.root_key, ca=True)

    def certify(self, public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> list[bytes]:
        own = _certificate("own", public_key, "intermediate", self.key)
        return [one.public_bytes(Encoding.DER) for one in (own, self.intermediate)]


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, issuer: str, signing: ec.EllipticCurvePrivateKey, ca: bool = False
) -> x509.Certificate:
    subject, issued_by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issued_by).public_key(key).serial_number(7)
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), True).sign(signing, hashes.SHA256())


AUTHORITY = Authority()


def contexts(chain: list[bytes], sign: Sign, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> list[ssl.SSLContext]:
    made = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(protocol)
        context.minimum_version = context.maximum_version = version
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=AUTHORITY.root.public_bytes(Encoding.DER))
        use_token_key(context, chain, sign)
        made.append(context)
    return made


def shake_hands(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in [*waiting]:
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    client.write(b"hello")
    assert server.read() == b"hello"
    return client, server


def software_key(curve: str = "EC-P256") -> tuple[list[bytes], Sign]:
    token = SoftwareToken("TEST")
    key = parts.load_der_public_key(token.generate("tls-peer", curve).public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    names = {32: "sha256", 48: "sha384", 64: "sha512"}
    return AUTHORITY.certify(key), lambda digest: token.sign_digest("tls-peer", digest, names[len(digest)])


def test_the_self_test_holds_here() -> None:
    self_test()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("curve", ["EC-P256", "EC-P384"])
def test_both_sides_authenticate_with_keys_behind_callbacks(curve: str, version: ssl.TLSVersion) -> None:
    chain, sign = software_key(curve)
    signed: list[bytes] = []

    client, server = shake_hands(*contexts(chain, lambda digest: (signed.append(digest), sign(digest))[1], version))

    assert client.getpeercert(binary_form=True) == server.getpeercert(binary_form=True) == chain[0]
    assert len(signed) == 2


def test_a_token_signs_the_handshakes(token_process: parts.TokenProcess, tmp_path: Path) -> None:
    with parts.opened(token_process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        key = parts.load_der_public_key(token.generate("tls-peer", "EC-P256").public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)

        shake_hands(*contexts(AUTHORITY.certify(key), lambda digest: token.sign_digest("tls-peer", digest, "sha256")))


def test_an_error_of_the_signer_fails_the_handshake_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chain, _ = software_key()

    def sign(digest: bytes) -> bytes:
        raise TokenAbsentError("pulled")

    with pytest.raises(ssl.SSLError):
        shake_hands(*contexts(chain, sign))
    assert [(record.message, record.facts["kind"]) for record in caplog.records] == [("handshake.not_signed", "token.absent")]  # type: ignore[attr-defined]  # journal.event adds it


@pytest.mark.parametrize("wrong", [b"", b"junk", bytes(200), b"\x30\x06\x02\x01\x01\x02\x01\x01"])
def test_a_wrong_signature_fails_the_handshake_and_nothing_else(wrong: bytes) -> None:
    chain, sign = software_key()

    with pytest.raises(ssl.SSLError):
        shake_hands(*contexts(chain, lambda digest: wrong))
    shake_hands(*contexts(chain, sign))


def test_a_bug_in_the_callback_fails_the_handshake_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    chain, _ = software_key()

    with pytest.raises(ssl.SSLError):
        shake_hands(*contexts(chain, lambda digest: digest[None]))  # type: ignore[call-overload]  # the bug
    assert caplog.records[0].exc_info is not None


def test_a_certificate_of_another_key_than_the_callbacks_is_noticed_by_the_peer() -> None:
    chain, _ = software_key()
    _, other = software_key()

    with pytest.raises(ssl.SSLError):
        shake_hands(*contexts(chain, other))


def test_rsa_is_refused_by_name() -> None:
    chain = AUTHORITY.certify(rsa.generate_private_key(65537, 2048).public_key())

    with pytest.raises(MechanismMissingError):
        use_token_key(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain, lambda digest: digest)


def test_handshakes_run_in_threads_at_once() -> None:
    chain, sign = software_key()
    pair, ended = contexts(chain, sign), []

    def run() -> None:
        for _ in range(5):
            shake_hands(*pair)
        ended.append(True)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [True] * 6


def test_a_callback_lives_as_long_as_its_context_and_its_connections() -> None:
    chain, sign = software_key()

    class Callback:
        def __call__(self, digest: bytes) -> bytes:
            return sign(digest)

    callback = Callback()
    gone = weakref.ref(callback)
    pair = contexts(chain, callback)
    del callback
    gc.collect()
    connections = shake_hands(*pair)
    del pair
    gc.collect()
    assert gone() is not None

    del connections
    gc.collect()
    assert gone() is None
    assert not token_key._signers


def test_contexts_come_and_go_without_growing() -> None:
    chain, sign = software_key()
    for _ in range(50):
        contexts(chain, sign)
    gc.collect()

    assert not token_key._signers
    shake_hands(*contexts(chain, sign))
