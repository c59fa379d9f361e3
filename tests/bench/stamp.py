"""`make bench ARGS=stamp`: what a time-stamping authority that takes 50 ms costs (IV.3.VI: stamp before delivery).

Each exchange needs two stamps before two deliveries. One request to the authority is in flight at each box, and all that waits shares the
next, so that a stamp costs a round trip or two, whatever the load. Measured against the same authority that answers at once, interleaved
round by round; medians. Goals: throughput within 10 %, p50 longer by at most 2.2 round trips an exchange.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioning.lab import keeper, layout, network
from tests.bench.load import Connections, Outcome

BASE = "127.0.61"
BEHIND_PORT = 8898
DELAY_S = 0.05
THROUGHPUT_LOSS_MAX, ROUND_TRIPS_MAX = 0.10, 2.2
SERVICES = "ceiqroo.services"
PIECE_BYTES = 65536


class Proxy:
    """Stands where the authority is registered, and holds its answers back for `delay_s`."""

    def __init__(self, address: str, port: int, behind: int) -> None:
        self.delay_s = 0.0
        self.answers = 0
        self._place, self._behind = (address, port), behind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, *self._place)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            behind_reader, behind_writer = await asyncio.open_connection(self._place[0], self._behind)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, behind_writer, delayed=False))
                group.create_task(self._carry(behind_reader, writer, delayed=True))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        """Each answer is held back once: its head starts the wait, its body follows in the same or the next piece."""
        while piece := await reader.read(PIECE_BYTES):
            if delayed and piece.startswith(b"HTTP/"):
                self.answers += 1
                await asyncio.sleep(self.delay_s)
            writer.write(piece)
            await writer.drain()
        writer.close()

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def slow_authority(directory: Path) -> Iterator[Proxy]:
    """The laboratory's services with the proxy before the authority."""
    keeper.ask(directory, f"hold {SERVICES}")
    command = [str(Path(sys.executable).parent / "ceiqroo"), "serve", str(directory / "ceiqroo"), "--tsa-port", str(BEHIND_PORT)]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if served.stdout is None or not served.stdout.readline().startswith("ready"):
            raise SystemExit("CEIQROO's services did not start")
        proxy = Proxy(f"{BASE}.1", layout.TSA_PORT, BEHIND_PORT)
        try:
            yield proxy
        finally:
            proxy.close()
    finally:
        served.terminate()
        served.communicate(timeout=20)


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """One line for each number in flight."""
    place = directory / "stamp"
    lab = network.up(place, 2, "software", BASE, 1, lambda line: print(line, file=sys.stderr))
    try:
        with slow_authority(place) as proxy:
            found = [_measured(lab, proxy, count, options.messages, options.rounds) for count in options.in_flight]
    finally:
        network.down(place)
    return {"delay_s": DELAY_S, "load": found}


def print_table(found: dict[str, Any]) -> None:
    wanted = f"{THROUGHPUT_LOSS_MAX:.0%} of the throughput, {ROUND_TRIPS_MAX} round trips of p50"
    print(f"\nAn authority that takes {DELAY_S * 1000:.0f} ms (wanted: at most {wanted})")
    for one in found["load"]:
        print(
            f"  {one['in_flight']:>4} in flight: {one['per_second'][0]:>6} exchanges/s at once, {one['per_second'][1]:>6} slow"
            f" ({one['loss']:+.1%}); p50 {one['p50_ms'][0]:.1f} ms, {one['p50_ms'][1]:.1f} ms:"
            f" {one['round_trips']:.2f} round trips more; {one['exchanges_per_stamp']:.1f} exchanges a stamp"
        )


def _measured(lab: dict[str, Any], proxy: Proxy, in_flight: int, messages: int, rounds: int) -> dict[str, Any]:
    client, service = lab["clients"][0]["id"], lab["services"][0]["id"]
    host, body = lab["boxes"][0]["address"], b"x" * 1024
    context = ssl.create_default_context(cafile=lab["ceiqroo"]["ca_cert"])
    context.check_hostname = False
    request = (
        f"POST /r1/{service}/bytes HTTP/1.1\r\nHost: {host}\r\nX-Road-Client: {client}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    count = max(in_flight * 4, min(messages, in_flight * 20))  # with a handful in flight fewer messages say the same
    seen: dict[float, list[Outcome]] = {0.0: [], DELAY_S: []}
    stamps = 0

    async def play() -> None:
        nonlocal stamps
        async with Connections(host, 8443, context, in_flight) as exchanges:
            await exchanges.work(request, min(count, 4 * in_flight))
            for _ in range(rounds):
                for delay_s, outcomes in seen.items():
                    proxy.delay_s, before = delay_s, proxy.answers
                    outcome = await exchanges.work(request, count)
                    if outcome.succeeded != count:
                        raise SystemExit(f"not every request succeeded: {outcome.statuses}")
                    outcomes.append(outcome)
                    stamps += (proxy.answers - before) if delay_s else 0

    asyncio.run(play())
    per_second = [statistics.median(sum(one.statuses.values()) / one.seconds for one in outcomes) for outcomes in seen.values()]
    p50 = [statistics.median(one.percentile(0.5) for one in outcomes) for outcomes in seen.values()]
    exchanges = sum(sum(one.statuses.values()) for one in seen[DELAY_S])
    return {
        "in_flight": in_flight,
        "per_second": [round(value) for value in per_second],
        "loss": round(1 - per_second[1] / per_second[0], 3),
        "p50_ms": [round(value, 1) for value in p50],
        "round_trips": round((p50[1] - p50[0]) / (DELAY_S * 1000), 2),
        "exchanges_per_stamp": round(exchanges / max(1, stamps), 1),
    }
