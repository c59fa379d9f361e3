"""The plain health endpoint: what a load balancer asks, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import SettingsError, UnavailableError
from appliance.model.identifiers import ClientId, ServerId
from appliance.relay.health_front import KEPT_S, HealthFront, health_socket
from appliance.settings import RelaySettings
from tests.messagelog.drafts import StillClock
from tests.net.serving import run, serving

SERVER = ServerId(ClientId("TEST", "GOV", "SSP"), "S1")
FRESHNESS_S = 28_800


@dataclass
class Box:
    """Everything that health looks at, in order until a test breaks it."""

    clock: StillClock = field(default_factory=StillClock)
    certificate: bytes | None = b"certificate"
    confirmed_s_ago: float | None = 60
    maintenance: str | None = None
    named: bool = True
    configured: bool = True
    services: bool = True

    def shared(self) -> Any:
        if not self.configured:
            raise UnavailableError("none", kind="configuration.expired")
        servers = [SimpleNamespace(id=SERVER, maintenance=self.maintenance)] if self.named else []
        return SimpleNamespace(servers=servers, ocsp_freshness_s=FRESHNESS_S)

    def evidence(self, digest: bytes) -> Any:
        if self.confirmed_s_ago is None:
            return None
        return SimpleNamespace(this_update_us=self.clock.now_us() - int(self.confirmed_s_ago * 1e6))

    def own_certificate(self) -> bytes | None:
        return self.certificate

    def local(self) -> Any:
        if not self.services:
            raise UnavailableError("none", kind="process.away")

    def front(self) -> HealthFront:
        return HealthFront(SERVER, self.clock, self, self.local, self)  # type: ignore[arg-type]


async def ask(front: HealthFront, method: bytes = b"GET") -> tuple[int, str]:
    async with serving(front.serve) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(method + b" /any HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n")
        answer = (await asyncio.wait_for(reader.read(), 5)).decode()
        writer.close()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2].strip()


@pytest.mark.parametrize(
    ("broken", "status", "word"),
    [
        ({}, 200, "ready"),
        ({"maintenance": "new disks"}, 503, "in maintenance"),
        ({"configured": False}, 500, "configuration.expired"),
        ({"named": False}, 500, "does not name this server"),
        ({"certificate": None}, 500, "no authentication certificate"),
        ({"confirmed_s_ago": None}, 500, "no fresh OCSP response"),
        ({"confirmed_s_ago": FRESHNESS_S + 1}, 500, "no fresh OCSP response"),
        ({"services": False}, 500, "clients and services"),
    ],
)
def test_a_balancer_is_told_whether_this_server_can_exchange(broken: dict[str, Any], status: int, word: str) -> None:
    async def main() -> None:
        found, said = await ask(Box(**broken).front())
        assert found == status
        assert word in said
        assert "new disks" not in said

    run(main)


def test_a_finding_is_kept_for_two_seconds() -> None:
    async def main() -> None:
        box = Box()
        front = box.front()
        assert (await ask(front))[0] == 200
        box.configured = False
        assert (await ask(front))[0] == 200
        box.clock.pass_s(KEPT_S)
        assert (await ask(front))[0] == 500

    run(main)


def test_only_get_and_head_are_answered() -> None:
    async def main() -> None:
        assert (await ask(Box().front(), b"HEAD")) == (200, "")
        assert (await ask(Box().front(), b"DELETE"))[0] == 405

    run(main)


def test_there_is_none_unless_the_settings_say_where() -> None:
    assert RelaySettings().health == ""
    for wrong in ("everywhere", "127.0.61.9:99999", ":80", "127.0.61.9:"):
        with pytest.raises(SettingsError):
            RelaySettings(health=wrong)
    with pytest.raises(SettingsError):
        health_socket("192.0.2.1:80")
    with health_socket("127.0.61.9:0") as one:
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
