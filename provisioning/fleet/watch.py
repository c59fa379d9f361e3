"""The fleet in a terminal: listens to the broker, shows every box, asks for rebirth where something is missing."""

from __future__ import annotations

import json
import queue
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from appliance.clock import Clock, SystemClock
from appliance.errors import UnavailableError
from appliance.net.sparkplug import NAMESPACE
from appliance.texts import TEXTS, text
from provisioning.fleet.view import BoxView, FleetView

MESSAGES_MAX = 10_000
"""Between paho's thread and the view; beyond it messages are lost, which the sequence gaps show and repair."""
REDRAW_S = 0.5
KEEP_ALIVE_S = 30

_STYLES = {
    "OPERATIONAL": "green",
    "AUTONOMOUS": "yellow",
    "UNPROVISIONED": "yellow",
    "UNHEARD": "yellow",
    "LOCKED": "yellow",
    "DEAD": "bold white on red",
}


class BrokerError(UnavailableError):
    """The broker cannot be reached, or refuses us."""

    kind = "broker.away"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAccess:
    """Where the broker is and how CEIQROO's monitor shows itself to it."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path


class Hears(Protocol):
    """What messages are for: the view of the fleet, the witness of the logs."""

    def take(self, topic_text: str, data: bytes, now_us: int) -> None: ...

    def requests(self, now_us: int) -> list[tuple[str, bytes]]: ...


class Listening:
    """The monitor's session with the broker: paho reconnects by itself; messages come out of a bounded queue."""

    def __init__(self, access: BrokerAccess) -> None:
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue(MESSAGES_MAX)
        context = ssl.create_default_context(cafile=str(access.ca))
        context.load_cert_chain(access.cert, access.key)
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.tls_set_context(context)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._connected
        client.on_message = self._message
        try:
            client.connect(access.host, access.port, KEEP_ALIVE_S)
        except OSError as error:
            raise BrokerError(f"{access.host}:{access.port}: {error}") from None
        client.loop_start()
        self._client = client

    def feed(self, view: Hears, clock: Clock, seconds: float) -> None:
        """Gives the view what arrives in that time, and sends the rebirth requests that it has."""
        ends = clock.monotonic_s() + seconds
        while (left := ends - clock.monotonic_s()) > 0:
            try:
                topic, payload = self._messages.get(timeout=left)
            except queue.Empty:
                break
            view.take(topic, payload, clock.now_us())
        if self._client.is_connected():
            for topic, payload in view.requests(clock.now_us()):
                self._client.publish(topic, payload, qos=0)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: mqtt.Client, userdata: object, flags: object, reason: object, properties: object) -> None:
        client.subscribe(f"{NAMESPACE}/#", qos=1)

    def _message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            self._messages.put_nowait((message.topic, bytes(message.payload)))
        except queue.Full:
            pass  # the sequence gap makes the view ask for a rebirth


def watch(access: BrokerAccess, known: list[str], *, as_json: bool = False, seconds: float = 0.0) -> None:
    """Shows the fleet until interrupted, or for `seconds`; `as_json`: one snapshot at their end. Raises BrokerError."""
    clock = SystemClock()
    view, listening = FleetView(known), Listening(access)
    ends = clock.monotonic_s() + seconds if seconds else float("inf")
    try:
        if as_json:
            while clock.monotonic_s() < ends:
                listening.feed(view, clock, min(REDRAW_S, max(0.0, ends - clock.monotonic_s())))
            print(json.dumps({"boxes": view.snapshot(clock.now_us())}, ensure_ascii=False, indent=2))
            return
        with Live(table(view, clock.now_us()), console=Console(), auto_refresh=False) as live:
            while clock.monotonic_s() < ends:
                listening.feed(view, clock, REDRAW_S)
                live.update(table(view, clock.now_us()), refresh=True)
                time.sleep(0)
    finally:
        listening.close()


def table(view: FleetView, now_us: int) -> Table:
    """One line a box."""
    shown = Table(title=text("fleet.title", boxes=len(view.boxes)), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("box", "state", "age", "processes", "token", "ocsp", "stamp", "incidents"):
        shown.add_column(text(f"fleet.{head}"), no_wrap=head != "processes", overflow="fold")
    for _, box in sorted(view.boxes.items()):
        shown.add_row(*_row(box, now_us))
    return shown


def _row(box: BoxView, now_us: int) -> list[Text]:
    style = _STYLES.get(box.state, "red")
    age = "-" if box.heard_us is None else _seconds((now_us - box.heard_us) / 1e6)
    silent = box.silent
    processes = text("fleet.silent", names=" ".join(silent)) if silent else str(len(box.devices) or "-")
    figures = box.metrics
    return [
        Text(_safe(box.edge_node), style="red" if box.alive is False else ""),
        Text(_catalogued("fleet_state", box.state), style=style),
        Text(age, style="red" if box.is_late(now_us) else ""),
        Text(_safe(processes), style="red" if silent else ""),
        Text(_catalogued("token_state", figures.get("Token/State"))),
        Text(_seconds(figures.get("Ocsp/Oldest age s"))),
        Text(_seconds(figures.get("Stamp/Age s"))),
        Text(str(len(box.incidents) or "-"), style="red" if box.incidents else ""),
    ]


def _catalogued(room: str, value: object) -> str:
    key = f"{room}.{value}"
    return text(key) if key in TEXTS else _safe(value or "-")


def _seconds(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _safe(value: object) -> str:
    """What a box says, without control characters and not longer than a column."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))[:80]
