"""TCP connects, alone or several at once: the first one wins (sheet 10.1.2)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from appliance.errors import UnavailableError

Address = tuple[str, int]
"""Host (name or number) and port."""


class UnreachableError(UnavailableError):
    """No address of the peer takes a connection, or too many are waiting for one already."""

    kind = "peer.unreachable"


async def fastest(addresses: list[Address], limit_s: float) -> tuple[socket.socket, Address]:
    """Connects to all of them at once, keeps the first. Raises UnreachableError when none has answered within `limit_s`."""
    if len(addresses) == 1:
        return await connect(addresses[0], limit_s), addresses[0]
    won: list[tuple[socket.socket, Address]] = []
    attempts: list[asyncio.Task[None]] = []

    async def attempt(address: Address) -> None:
        with contextlib.suppress(UnreachableError):
            sock = await connect(address, limit_s)
            if won:
                sock.close()
                return
            won.append((sock, address))
            for other in attempts:
                if other is not asyncio.current_task():
                    other.cancel()

    try:
        async with asyncio.TaskGroup() as group:
            attempts += [group.create_task(attempt(address)) for address in addresses]
    except BaseException:
        for sock, _ in won:
            sock.close()
        raise
    if not won:
        raise UnreachableError(f"none of {len(addresses)} addresses takes a connection")
    return won[0]


async def connect(address: Address, limit_s: float) -> socket.socket:
    """A connected, non-blocking socket: the first of the host's addresses that answers. Raises UnreachableError after `limit_s`."""
    host, port = address
    loop = asyncio.get_running_loop()
    reason = "no address"
    try:
        async with asyncio.timeout(limit_s):
            for family, kind, protocol, _, name in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
                try:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, name)
                    return sock
                except OSError as error:
                    sock.close()
                    reason = str(error)
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError:
        reason = f"no connection in {limit_s} s"
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be asked for, such as `a..b`
        reason = str(error)
    raise UnreachableError(f"{host}:{port}: {reason}")
