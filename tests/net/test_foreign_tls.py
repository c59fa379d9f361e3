"""X-Road's TLS profile against real OpenSSL programs: both directions, ECDSA and RSA, every kind of authentication certificate; and that a
box whose settings name no foreign server offers none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.hsm.service import handshake_hash
from appliance.net import tls, token_key
from appliance.net.connection import ServerConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.http1 import response_head
from appliance.net.tls_engine import HandshakeThreads, TlsRejectedError
from tests.net.pki import Identity
from tests.net.serving import run, serving
from tests.net.test_tls import made

pytestmark = pytest.mark.rule("I.4.XVIII")

ECDSA_SUITE, RSA_SUITE, DHE_SUITE = "ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES256-SHA256"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
USAGES = {"clientAuth only": (CLIENT,), "both": (CLIENT, SERVER), "no EKU": (), "serverAuth only": (SERVER,)}
PROGRAM_S_MAX = 15.0
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def peer(directory: Path, kind: str, usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,)) -> Path:
    """An authentication certificate with its key, as a foreign member's CA makes them: key usage, and these extended ones."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)  # noqa: TID251  for the machine's own OpenSSL
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "foreign")]))
        .issuer_name(made().ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.KeyUsage(True, False, kind == "RSA", False, False, False, False, False, False), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(made().ca.key, hashes.SHA256())
    file = directory / f"{kind}.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def as_box(identity: Identity) -> tls.KeyLoader:
    """The key behind the callback, as on a box: what the signer would not sign, it does not sign here either."""

    def sign(digest: bytes) -> bytes:
        return identity.key.sign(digest, ec.ECDSA(Prehashed(_HASHES[handshake_hash(digest)])))

    return lambda context: token_key.use_token_key(context, [identity.der], sign)


def server_context(*, foreign: bool) -> ssl.SSLContext:
    context = tls.peer_server_context([made().ca.der], as_box(made().b), foreign=foreign)
    token_key.accept_any_purpose(context)
    return context


def client_context(*, foreign: bool) -> ssl.SSLContext:
    context = tls.peer_client_context([made().ca.der], as_box(made().a), foreign=foreign)
    token_key.accept_any_purpose(context)
    return context


async def s_client(port: int, file: Path, *words: str) -> tuple[bool, str]:
    """Whether `openssl s_client` got an answer, and all that it said."""
    program = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-cert", str(file), "-key", str(file), "-CAfile", str(made().ca.file),
        "-ign_eof", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    asked = b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
    said, _ = await asyncio.wait_for(program.communicate(asked), PROGRAM_S_MAX)
    text = said.decode(errors="replace")
    return "HTTP/1.1 200" in text, text


async def answer(connection: ServerConnection) -> None:
    while (head := await connection.request()) is not None:
        connection.write(response_head(200, [(b"Content-Length", b"0")]))
        await connection.drain()
        if not head.keep_alive:
            break
    connection.close()


@contextlib.asynccontextmanager
async def s_server(file: Path, *words: str) -> AsyncIterator[int]:
    """A running `openssl s_server -www` that insists on a certificate of ours; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = await asyncio.create_subprocess_exec(
        "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(file), "-key", str(file), "-CAfile", str(made().ca.file),
        "-Verify", "2", "-verify_return_error", "-www", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        async with asyncio.timeout(PROGRAM_S_MAX):
            while b"ACCEPT" not in await program.stdout.readline():
                pass
        yield port
    finally:
        program.kill()
        await program.wait()


async def ask(port: int, context: ssl.SSLContext) -> str:
    """The protocol that a request of ours went over."""
    dialer = Dialer(DialerLimits(), HandshakeThreads())
    try:
        connection = await dialer.acquire([("127.0.0.1", port)], "peer", context=context)
        connection.start(b"GET", b"GET / HTTP/1.0\r\nHost: foreign\r\n\r\n")
        assert (await connection.response(5)).status == 200
        protocol = connection.peer.protocol
        connection.abort()
        dialer.release(connection)
        return str(protocol)
    finally:
        await dialer.close()


@pytest.mark.parametrize("kind", ["RSA", "EC"])
@pytest.mark.parametrize("usages", USAGES.values(), ids=USAGES)
def test_a_foreign_client_gets_in_with_x_roads_profile(tmp_path: Path, kind: str, usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    async def main() -> None:
        file, context = peer(tmp_path, kind, usages), server_context(foreign=True)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, said = await s_client(served.port, file, "-tls1_2", "-cipher", tls.FOREIGN_SUITES)
            assert done, said
            assert f"Cipher is {ECDSA_SUITE}" in said
            assert "Verify return code: 0" in said

    run(main)


@pytest.mark.parametrize(
    ("kind", "suite"),
    [("RSA", RSA_SUITE), ("RSA", DHE_SUITE), ("EC", ECDSA_SUITE)],
)
@pytest.mark.parametrize("usages", USAGES.values(), ids=USAGES)
def test_we_reach_a_foreign_server_in_each_of_its_suites(
    tmp_path: Path, kind: str, suite: str, usages: tuple[x509.ObjectIdentifier, ...]
) -> None:
    async def main() -> None:
        async with s_server(peer(tmp_path, kind, usages), "-tls1_2", "-cipher", suite) as port:
            assert await ask(port, client_context(foreign=True)) == "TLSv1.2"

    run(main)


@pytest.mark.parametrize("usages", USAGES.values(), ids=USAGES)
def test_without_foreign_servers_only_tls_1_3_is_spoken_whatever_the_certificate(
    tmp_path: Path, usages: tuple[x509.ObjectIdentifier, ...]
) -> None:
    async def main() -> None:
        file, context = peer(tmp_path, "EC", usages), server_context(foreign=False)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, said = await s_client(served.port, file, "-tls1_3")
            assert done, said
        async with s_server(file, "-tls1_3") as port:
            assert await ask(port, client_context(foreign=False)) == "TLSv1.3"

    run(main)


@pytest.mark.parametrize("words", [("-tls1_2", "-cipher", "ALL:@SECLEVEL=0"), ("-tls1_2", "-cipher", tls.FOREIGN_SUITES)])
def test_a_default_listener_offers_neither_tls_1_2_nor_cbc(tmp_path: Path, words: tuple[str, ...]) -> None:
    async def main() -> None:
        file, context = peer(tmp_path, "EC"), server_context(foreign=False)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, said = await s_client(served.port, file, *words)
            assert not done
            assert "alert protocol version" in said
        assert not [one["name"] for one in context.get_ciphers() if one["protocol"] == "TLSv1.3" and "CBC" in one["name"]]

    run(main)


def test_a_default_client_does_not_follow_a_server_down_to_tls_1_2(tmp_path: Path) -> None:
    async def main() -> None:
        async with s_server(peer(tmp_path, "RSA"), "-tls1_2") as port:
            with pytest.raises(TlsRejectedError):
                await ask(port, client_context(foreign=False))

    run(main)


@pytest.mark.parametrize(
    "words",
    [
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:AES256-SHA256:ECDHE-ECDSA-AES128-SHA"),
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
    ],
)
def test_the_foreign_profile_is_three_suites_and_no_more(tmp_path: Path, words: tuple[str, ...]) -> None:
    async def main() -> None:
        file, context = peer(tmp_path, "EC"), server_context(foreign=True)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, said = await s_client(served.port, file, *words)
            assert not done
            assert "alert" in said

    run(main)


def test_any_purpose_is_still_only_under_an_approved_authority(tmp_path: Path) -> None:
    async def main() -> None:
        context = server_context(foreign=True)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, _ = await s_client(served.port, made().stranger.file, "-tls1_2", "-cipher", tls.FOREIGN_SUITES)
            assert not done
            assert served.kinds == ["peer.tls_rejected"]

    run(main)
