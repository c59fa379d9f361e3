"""The reporter's certificate and key for the broker: the certificate from the signer's list, the key stays in the token.

The handshake's signature is asked from the signer: this process holds no private key.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance.errors import UnavailableError
from appliance.hsm.wire import HandshakeRequest, KeyRecord
from appliance.net.local_client import BlockingClient, LocalClient
from appliance.net.local_sockets import channel_path
from appliance.net.mqtt_session import KeyLoader

LABEL = "tls-report"
ISSUERS = Path("box/issuers.pem")
ISSUERS_MAX = 8
_END = "-----END CERTIFICATE-----"


class EnrolmentMissingError(UnavailableError):
    """Something that enrolment brings is not there yet; `waits_for` names it."""

    kind = "enrolment.missing"

    def __init__(self, waits_for: str) -> None:
        super().__init__(f"waiting for {waits_for}")
        self.waits_for = waits_for


def report_key_loader(state: Path) -> Callable[[], Awaitable[KeyLoader]]:
    """Finds the key anew for each session: a certificate may have been replaced since the last."""
    signer = LocalClient(channel_path(state, "signer", "reporter"))

    async def find() -> KeyLoader:
        try:
            keys = await signer.call("list_keys", None, list[KeyRecord])
        except UnavailableError:
            raise EnrolmentMissingError("signer") from None
        certificates: list[bytes] = next((key.certificates for key in keys if key.label == LABEL), [])
        if not certificates:
            raise EnrolmentMissingError(f"certificate.{LABEL}")
        chain = [certificates[0], *issuers(state / ISSUERS)]
        shown = hashlib.sha256(chain[0]).digest()
        handshakes = BlockingClient(channel_path(state, "signer", "reporter"))

        def sign(digest: bytes) -> bytes:
            signature: bytes = handshakes.call("sign_handshake", HandshakeRequest(LABEL, digest, shown), bytes)
            return signature

        def load(context: ssl.SSLContext) -> None:
            from appliance.net.token_key import use_token_key  # reaches into libcrypto: only once there is a key to use

            use_token_key(context, chain, sign)

        return load

    return find


def issuers(file: Path) -> list[bytes]:
    """The certificates between ours and the root, DER, in the file's order. Raises EnrolmentMissingError."""
    try:
        text = file.read_text("ascii", "replace")
    except OSError:
        raise EnrolmentMissingError("box.issuers") from None
    blocks = [part[part.index("-----BEGIN") :] + _END for part in text.split(_END)[:ISSUERS_MAX] if "-----BEGIN" in part]
    return [ssl.PEM_cert_to_DER_cert(block) for block in blocks]
