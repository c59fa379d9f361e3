"""Running parts for the tests of the signer: token processes, tokens of every maker, certificates, a recorder that only audits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from appliance.hsm.makers import open_token
from appliance.hsm.token import Token
from appliance.net import local_sockets
from appliance.settings import SignerSettings
from provisioning.lab import tokens
from provisioning.lab.tokens import TokenPlan

KINDS = ("software", "softhsm", "swtpm")
PIN, SO_PIN = "48151623", "42108000"
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


class TokenProcess:
    """A token's own process: started, unplugged (killed with its children), replugged."""

    def __init__(self, plan: TokenPlan) -> None:
        self.plan = plan
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if not self.plan.argv:
            return
        for path in self.plan.sockets:
            path.unlink(missing_ok=True)
        environment = {"PATH": os.defpath, **self.plan.environment}
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(self.plan.argv, env=environment, start_new_session=True, stdout=nothing, stderr=nothing)
        for path in self.plan.sockets:
            until(lambda path=path: _answers(path), "the token's socket")

    def unplug(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            local_sockets.connect(sock, path)
        except OSError:
            return False
    return True


def plan(kind: str, directory: Path, label: str = "box") -> TokenPlan:
    """A token of this kind; skips, with the reason, what is not installed here."""
    reason = tokens.missing(kind)
    if reason is not None:
        pytest.skip(reason)
    if kind == "softhsm":
        return tokens.prepare_softhsm(directory, label, PIN, SO_PIN)
    return tokens.prepare_swtpm(directory) if kind == "swtpm" else tokens.prepare_software(directory)


def settings_of(planned: TokenPlan, **more: object) -> SignerSettings:
    return SignerSettings(**planned.settings, **more)  # type: ignore[arg-type]  # a settings file's values, all strings


@contextlib.contextmanager
def running(planned: TokenPlan) -> Iterator[TokenProcess]:
    process = TokenProcess(planned)
    process.start()
    try:
        yield process
    finally:
        process.unplug()


@contextlib.contextmanager
def opened(planned: TokenPlan, keys: Path) -> Iterator[Token]:
    """The token itself, in this process, not logged in."""
    keys.mkdir(exist_ok=True)
    token = open_token(settings_of(planned), "TEST", keys)
    try:
        yield token
    finally:
        token.close()


def until(holds: object, what: str, seconds: float = 5.0) -> float:
    """Waits for a condition, a short step at a time; returns how long it took."""
    begun = time.monotonic()
    while not holds():  # type: ignore[operator]  # any callable
        assert time.monotonic() - begun < seconds, f"{what} did not come within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - begun


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an asynchronous test on a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


def verify(public_key: bytes, signature: bytes, digest: bytes, hash_name: str) -> None:
    """Independent of the signer's own check; raises InvalidSignature."""
    key, prehashed = load_der_public_key(public_key), Prehashed(HASHES[hash_name])
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, digest, padding.PKCS1v15(), prehashed)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, digest, ec.ECDSA(prehashed))


def digest_of(data: bytes, hash_name: str = "sha512") -> bytes:
    return hashlib.new(hash_name, data).digest()


def certificate_for(
    public_key: bytes, *, seals: bool = False, client: bool = False, first: datetime | None = None, days: int = 365
) -> bytes:
    """A certificate over somebody's public key by a throw-away CA, DER."""
    authority = ec.generate_private_key(ec.SECP256R1())
    first = first or datetime.now(UTC) - timedelta(days=1)  # noqa: TID251  a certificate for a running process
    usage = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tested")])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "throw-away CA")])
    key = load_der_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(first + timedelta(days=days))
    builder = builder.add_extension(x509.KeyUsage(digital_signature=client, content_commitment=seals, **usage), critical=True)
    return builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.DER)
