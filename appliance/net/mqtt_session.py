"""One session with CEIQROO's broker: MQTT 5 over mutual TLS, will set before it connects, bounded in flight.

paho's own thread carries the session; it reports to the event loop that opened it and touches nothing else. A session that ended is thrown
away with what it had in flight (the outbox knows what was not acknowledged); a new one gets a new will.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from appliance.errors import UnavailableError, UnverifiedError

Result = TypeVar("Result")

CONNECT_S_MAX = 15.0
IN_FLIGHT_MAX = 20
QUEUED_MAX = 200
"""Inside paho, all kinds: the births of a box with 16 relays fit; beyond it `publish` says no."""
MESSAGE_BYTES_MAX = 64 << 10
"""Largest message that the broker may send us: a rebirth command has 50 bytes."""
RECONNECT_S_FIRST, RECONNECT_S_MAX = 2.0, 60.0


class BrokerAwayError(UnavailableError):
    """The broker cannot be reached, or ended the session."""

    kind = "broker.away"


class BrokerRefusedError(UnverifiedError):
    """TLS with the broker failed: its certificate or ours."""

    kind = "broker.refused"


@dataclass(frozen=True, slots=True)
class Connected:
    pass


@dataclass(frozen=True, slots=True)
class Disconnected:
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """PUBACK for the message that `publish` gave this token."""

    token: int


Event = Connected | Disconnected | Received | Acknowledged

KeyLoader = Callable[[ssl.SSLContext], None]
"""Puts our certificate and its key into the context: the key in the token (`net.token_key`), or in a test from files."""


def reconnect_after_s(failures: int, random: Callable[[], float]) -> float:
    """Pause before the next attempt: doubling from 2 s, at most 60 s, spread over its second half so that boxes do not come at once."""
    longest: float = min(RECONNECT_S_MAX, RECONNECT_S_FIRST * 2.0 ** min(failures, 10))
    return longest * (0.5 + 0.5 * random())


def broker_context(ca: Path, key_loader: KeyLoader) -> ssl.SSLContext:
    """TLS towards the broker: only its own CA, host name checked, TLS 1.2 or later. Raises BrokerRefusedError for unusable files."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=str(ca))
        key_loader(context)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise BrokerRefusedError(f"certificates for the broker: {error}") from None
    return context


async def in_thread(act: Callable[[], Result]) -> Result:
    """Like asyncio.to_thread, but the end of the process does not wait for a thread that hangs in a broker's silence."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        if not done.done():
            settle()

    def work() -> None:
        try:
            result = act()
        except BaseException as error:
            failure = error
            settle: Callable[[], None] = lambda: done.set_exception(failure)  # noqa: E731  one of two outcomes
        else:
            settle = lambda: done.set_result(result)  # noqa: E731  the other one
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(tell, settle)

    threading.Thread(target=work, name="mqtt-connect", daemon=True).start()
    return await done


class MqttSession:
    """From `open` to Disconnected, once. Events arrive through `on_event` in the loop's own thread."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        client_id: str,
        keep_alive_s: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self._host, self._port, self._keep_alive_s = host, port, keep_alive_s
        self._loop, self._on_event, self._ended = asyncio.get_running_loop(), on_event, False
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False)
        client.tls_set_context(context)
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        client.max_queued_messages_set(QUEUED_MAX)
        client.connect_timeout = CONNECT_S_MAX
        client.on_connect, client.on_connect_fail = self._connected, self._failed
        client.on_disconnect, client.on_message, client.on_publish = self._disconnected, self._message, self._published
        self._client = client

    async def open(self, will_topic: str, will_payload: bytes, subscribe: str) -> None:
        """Connects, in a thread: DNS, TCP and a handshake with a slow token may take seconds.

        Connected follows when the broker accepted us. Raises BrokerAwayError, BrokerRefusedError.
        """
        self._subscription = subscribe
        self._client.will_set(will_topic, will_payload, qos=1, retain=False)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = 0
        properties.MaximumPacketSize = MESSAGE_BYTES_MAX
        properties.ReceiveMaximum = IN_FLIGHT_MAX
        try:
            await in_thread(lambda: self._connect(properties))
        except ssl.SSLError as error:
            raise BrokerRefusedError(f"{self._host}: {error.reason or error}") from None
        except (OSError, mqtt.WebsocketConnectionError) as error:
            raise BrokerAwayError(f"{self._host}:{self._port}: {error}") from None
        self._client.loop_start()

    def _connect(self, properties: Properties) -> None:
        self._client.connect(self._host, self._port, self._keep_alive_s, clean_start=True, properties=properties)

    def publish(self, topic: str, payload: bytes, quality: int) -> int:
        """Gives the message to the session; the token returns with Acknowledged when `quality` is 1. Raises BrokerAwayError."""
        try:
            info = self._client.publish(topic, payload, quality, retain=False)
        except ValueError as error:
            raise BrokerAwayError(f"not taken: {error}") from None
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise BrokerAwayError(f"not taken: {mqtt.error_string(info.rc)}")
        return info.mid

    async def close(self) -> None:
        """Ends the session in order, without the will; waits until paho's thread has ended."""
        self._client.disconnect()
        await in_thread(self._client.loop_stop)

    # paho's thread from here on

    def _connected(self, client: mqtt.Client, userdata: object, flags: object, reason: ReasonCode, properties: object) -> None:
        if reason.is_failure:
            self._end(str(reason))
            client.disconnect()
            return
        client.subscribe(self._subscription, qos=1)
        self._tell(Connected())

    def _failed(self, client: mqtt.Client, userdata: object) -> None:
        self._end("connection failed")

    def _disconnected(self, client: mqtt.Client, userdata: object, flags: object, reason: ReasonCode, properties: object) -> None:
        self._end(str(reason))

    def _message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        self._tell(Received(message.topic, bytes(message.payload)))

    def _published(self, client: mqtt.Client, userdata: object, mid: int, reason: ReasonCode, properties: object) -> None:
        self._tell(Acknowledged(mid))

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._tell(Disconnected(reason))

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
            self._loop.call_soon_threadsafe(self._on_event, event)
