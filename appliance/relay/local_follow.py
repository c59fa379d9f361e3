"""The relay's copy of this box's own clients, services and rights, kept current by the supervisor."""

from __future__ import annotations

import asyncio

from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.local_view import LocalView
from appliance.net.local_client import LocalClient
from appliance.relay.trust_view import TrustView
from appliance.supervision.wire import LocalConfiguration, LocalNews

RETRY_S, WAIT_S = 0.5, 10.0


class LocalUnknownError(UnavailableError):
    """The supervisor has not yet said who may do what: nobody may do anything."""

    kind = "box.configuration_awaited"


class LocalFollow:
    """Holds the newest view; without one everything is refused."""

    def __init__(self, supervisor: LocalClient, trust: TrustView) -> None:
        self._supervisor, self._trust = supervisor, trust
        self._configuration: LocalConfiguration | None = None
        self._view: LocalView | None = None

    def view(self) -> LocalView:
        """Raises LocalUnknownError until the supervisor has answered once."""
        if self._view is None:
            raise LocalUnknownError("the box's own configuration is not known yet")
        return self._view

    def rebuild(self) -> None:
        """After a change here or of the network's groups."""
        if self._configuration is None:
            return
        shared = self._trust.current()
        self._view = LocalView(self._configuration, shared.groups if shared else {})

    async def follow(self) -> None:
        """Waits for each change; for ever."""
        known = -1
        while True:
            try:
                news = LocalNews(known, WAIT_S)
                found: LocalConfiguration = await self._supervisor.call(
                    "local_configuration", news, LocalConfiguration, timeout_s=WAIT_S + 5
                )
                if found.generation != known:
                    known, self._configuration = found.generation, found
                    self.rebuild()
            except XacbeError:
                await asyncio.sleep(RETRY_S)
