"""The relay's TLS contexts, made anew whenever a certificate, the approved CAs or the registered clients change.

The private keys stay in the token: a context holds a certificate and a callback that asks the signer for one handshake signature.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from appliance.errors import UnavailableError, XacbeError
from appliance.hsm.client import HandshakeSigner, SignerClient
from appliance.hsm.wire import KeyRecord
from appliance.journal import event
from appliance.model import certificates
from appliance.net import tls, token_key
from appliance.trust.chains import ISSUERS_MAX
from appliance.trust.global_configuration import SharedParameters

PEER_KEY, INTERNAL_KEY = "tls-peer", "tls-internal"
LOOK_S, RETRY_S = 5.0, 0.5
"""How soon a renewed certificate is used, and how often a missing signer is asked again."""


class TlsUnreadyError(UnavailableError):
    """The box has no certificate or no configuration for this kind of connection yet."""

    kind = "relay.tls_unready"


class Contexts:
    """Contexts by purpose; each `..._context` gives the newest one. Raises TlsUnreadyError until there is one."""

    def __init__(self, state: Path, log: logging.Logger, signer: SignerClient, *, foreign: bool) -> None:
        """`foreign`: there are servers that speak X-Road's TLS profile."""
        self._log, self._signer, self._foreign = log, signer, foreign
        self._sign = {label: HandshakeSigner(state, "relay", label) for label in (PEER_KEY, INTERNAL_KEY)}
        self._chains: dict[str, tuple[bytes, ...]] = {}
        self._anchors: tuple[bytes, ...] = ()
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        self._foreign_client: ssl.SSLContext | None = None
        self._shown: bytes | None = None
        self._https: ssl.SSLContext | None = None
        self.peer_ready, self.https_ready = asyncio.Event(), asyncio.Event()

    def peer_server_context(self) -> ssl.SSLContext:
        return _present(self._server)

    def peer_client_context(self, *, foreign: bool = False) -> ssl.SSLContext:
        """`foreign`: one that also offers X-Road's profile; never where the settings name no foreign server."""
        return _present(self._foreign_client if foreign and self._foreign else self._client)

    def https_context(self) -> ssl.SSLContext:
        return _present(self._https)

    def own_certificate(self) -> bytes | None:
        """Our authentication certificate, DER, that the newest context towards peers shows: its OCSP response goes with every message."""
        return self._shown

    def configuration_changed(self, instances: Sequence[SharedParameters]) -> None:
        """The approved CAs of every instance: which of them counts for which peer is `exchange.peer_trust`'s decision."""
        anchors = tuple(sorted({certificates.der(ca.certificate) for shared in instances for ca in shared.cas}))
        if anchors != self._anchors:
            self._anchors = anchors
            self._make_peer()

    async def follow_keys(self) -> None:
        """Asks the signer for certificates now and then; for ever."""
        while True:
            wait_s = LOOK_S
            try:
                self._keys_found(await self._signer.keys())
            except XacbeError as error:
                event(self._log, logging.INFO, "keys.awaited", kind=error.kind)
                wait_s = RETRY_S
            await asyncio.sleep(wait_s if self.peer_ready.is_set() and self.https_ready.is_set() else RETRY_S)

    def _keys_found(self, keys: list[KeyRecord]) -> None:
        chains: dict[str, tuple[bytes, ...]] = {
            key.label: (key.certificates[0],) for key in keys if key.certificates and key.label in self._sign
        }
        changed = {label for label in self._sign if chains.get(label) != self._chains.get(label)}
        self._chains = chains
        if PEER_KEY in changed:
            self._make_peer()
        if INTERNAL_KEY in changed:
            self._make_https()

    def _make_peer(self) -> None:
        loader = self._loader(PEER_KEY)
        if loader is None or not self._anchors:
            return
        self._server = tls.peer_server_context(self._anchors, loader, foreign=self._foreign)
        self._client = tls.peer_client_context(self._anchors, loader)
        self._foreign_client = tls.peer_client_context(self._anchors, loader, foreign=True) if self._foreign else None
        for context in filter(None, (self._server, self._client, self._foreign_client)):
            token_key.accept_any_purpose(context)  # `exchange.peer_trust` decides by the certificate's profile
            token_key.bound_chain(context, ISSUERS_MAX)
        self._shown = self._chains[PEER_KEY][0]
        self.peer_ready.set()
        event(self._log, logging.INFO, "tls.peer_context_made", anchors=len(self._anchors))

    def _make_https(self) -> None:
        loader = self._loader(INTERNAL_KEY)
        if loader is None:
            return
        self._https = tls.client_https_context(loader)
        token_key.accept_any_certificate(self._https)  # `exchange.client_side.check_authentication` compares it
        self.https_ready.set()

    def _loader(self, label: str) -> Callable[[ssl.SSLContext], None] | None:
        """The context's key is the one of its certificate for as long as the context lives, whatever comes into force meanwhile."""
        chain = self._chains.get(label)
        if not chain:
            return None
        sign = partial(self._sign[label], certificate_sha256=hashlib.sha256(chain[0]).digest())
        return partial(token_key.use_token_key, chain=chain, sign=sign)


def _present(context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is None:
        raise TlsUnreadyError("no certificate, or no global configuration yet")
    return context
