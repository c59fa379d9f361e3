"""How each exchange went, for operational monitoring (sheet 8): noted while it runs, sent to the recorder in batches.

Never in the way of a message: noting costs microseconds and waits for nobody; while the recorder is away the newest WAITING_MAX records
are kept and the oldest dropped, and what a crash takes is lost (sheet 8.2 does the same). The course of the exchange that a task carries
out is a context variable: the ports of `exchange` need not know that somebody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from urllib.parse import unquote

from appliance.access.paths import normalised
from appliance.clock import Clock
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.dialects import Request
from appliance.exchange.ports import Body, Trust
from appliance.messagelog.operations_wire import (
    FAULT_CHARACTERS_MAX,
    PRODUCER,
    AskHealth,
    FoundOperations,
    Operation,
    OperationsHealth,
    QueryOperations,
    cut,
)
from appliance.model.identifiers import ServerId
from appliance.net.faults import Fault
from appliance.net.local_client import LocalClient
from appliance.net.message_protocol import RestRequest
from appliance.net.soap_protocol import SoapRequest
from appliance.version import VERSION

SEND_S, SEND_S_MAX = 2.0, 10.0
ASK_S_MAX = 30.0
"""A query opens and packs some thousand records."""
BATCH_MAX = 250
"""Records in one call: packing them holds the loop for half a millisecond."""
WAITING_MAX = 20_000
"""As X-Road's buffer; some 40 MB of the longest texts, 20 MB of usual ones."""
REST_VERSION = "1"
_SOAP, _REST = "WSDL", "REST"


class Course:
    """What is known of one exchange so far. Everything is optional: it may fail at any point."""

    __slots__ = (
        "_clock", "fault", "other_address", "request", "request_id", "request_in_ms", "request_out_ms", "request_sizes", "response_head",
        "response_in_ms", "response_sizes", "service_type", "status",
    )  # fmt: skip

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.request_in_ms = clock.now_us() // 1000
        self.request_out_ms: int | None = None
        self.response_in_ms: int | None = None
        self.request: Request | None = None
        self.request_id = ""
        self.response_head: int | None = None
        self.status: int | None = None
        self.request_sizes: tuple[int, ...] | None = None
        self.response_sizes: tuple[int, ...] | None = None
        self.service_type = ""
        self.other_address = ""
        self.fault: Fault | None = None

    def took(self, body: Body | None) -> None:
        """The request is here completely. The body itself is not held: it may be a file."""
        self.request_sizes = _sizes(body)

    def left(self) -> None:
        """The request went on."""
        self.request_out_ms = self._clock.now_us() // 1000

    def came_back(self) -> None:
        """The answer began to arrive."""
        self.response_in_ms = self._clock.now_us() // 1000

    def answers(self, head: bytes, body: Body | None) -> None:
        """There is an answer that may leave. `head`: the REST head or the SOAP part."""
        self.response_head, self.response_sizes = len(head), _sizes(body)
        if isinstance(self.request, RestRequest):
            self.status = int(head[:3])


_current: ContextVar[Course | None] = ContextVar("course", default=None)


def took(body: Body | None) -> None:
    """The message of the exchange under way is here completely."""
    course = _current.get()
    if course is not None:
        course.took(body)


def left(other_address: str = "") -> None:
    """The request of the exchange under way went on: to the server at `other_address`, or to our information system."""
    course = _current.get()
    if course is not None:
        course.left()
        if other_address:
            course.other_address = other_address


def came_back() -> None:
    course = _current.get()
    if course is not None:
        course.came_back()


class Monitoring:
    """One for each relay: the records that wait, and who sends them."""

    def __init__(self, server: ServerId, clock: Clock, trust: Trust, recorder: LocalClient, address: Callable[[], str]) -> None:
        self._server, self._clock, self._trust, self._recorder, self._internal = server, clock, trust, recorder, address
        self._waiting: deque[Operation] = deque(maxlen=WAITING_MAX)
        self._ip = self._own = ""
        self.dropped = 0

    def begin(self) -> Course:
        """A request begins to arrive; what its task does from now on is part of this course."""
        course = Course(self._clock)
        _current.set(course)
        return course

    def end(self, course: Course, side: str) -> None:
        """The answer has left."""
        _current.set(None)
        self.dropped += len(self._waiting) == WAITING_MAX
        self._waiting.append(self._record(course, side))

    def _record(self, course: Course, side: str) -> Operation:
        request, fault = course.request, course.fault
        own = self._own = self._own or self._own_address()
        now_ms = self._clock.now_us() // 1000
        client_address, service_address = (course.other_address, own) if side == PRODUCER else (own, course.other_address)
        record = Operation(
            security_server_internal_ip=self._internal_ip(),
            security_server_type=side,
            request_in_ts=course.request_in_ms,
            request_out_ts=course.request_out_ms,
            response_in_ts=course.response_in_ms,
            response_out_ts=now_ms,
            client_security_server_address=cut(client_address or None),
            service_security_server_address=cut(service_address or None),
            x_request_id=cut(course.request_id or None),
            succeeded=fault is None,
            x_road_version=VERSION,
        )
        if fault is not None:
            record.fault_code, record.fault_string = cut(fault.code), cut(fault.message, FAULT_CHARACTERS_MAX)
        if request is not None:
            _describe(record, request, course)
            if side == PRODUCER and fault is None and course.request_out_ms is None:  # answered by the box itself (sheet 8.1)
                record.request_out_ts, record.response_in_ts = course.request_in_ms, now_ms
            if side == PRODUCER and isinstance(request, RestRequest):
                record.rest_path = cut(_path(request))
        return record

    def _own_address(self) -> str:
        """As CEIQROO registered it."""
        try:
            servers = self._trust.shared().servers_of(self._server.owner)
        except XacbeError:
            return ""
        return next((one.address for one in servers if one.id == self._server), "")

    def _internal_ip(self) -> str:
        if not self._ip:
            self._ip = self._internal()
        return self._ip

    async def run(self) -> None:
        """For ever: sends what waits, every SEND_S."""
        while True:
            await asyncio.sleep(SEND_S)
            self._own = self._own_address()
            await self.send()

    async def send(self) -> None:
        """All that waits, unless the recorder is away: then it goes on waiting."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
            try:
                await self._recorder.call("take_operations", batch, timeout_s=SEND_S_MAX)
            except XacbeError:
                room = WAITING_MAX - len(self._waiting)
                self.dropped += max(0, len(batch) - room)
                self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))
                return


class RecorderDesk:
    """The port `OperationsDesk`: the recorder over its local socket."""

    def __init__(self, recorder: LocalClient) -> None:
        self._recorder = recorder

    async def query(self, wanted: QueryOperations) -> FoundOperations:
        with _told_as_away():
            found: FoundOperations = await self._recorder.call("query_operations", wanted, FoundOperations, timeout_s=ASK_S_MAX)
        return found

    async def health(self, wanted: AskHealth) -> OperationsHealth:
        with _told_as_away():
            found: OperationsHealth = await self._recorder.call("operations_health", wanted, OperationsHealth, timeout_s=ASK_S_MAX)
        return found


@contextlib.contextmanager
def _told_as_away() -> Iterator[None]:
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(str(error), kind="operations.away") from None


def _describe(record: Operation, request: Request, course: Course) -> None:
    client, service = request.client, request.service
    provider = service.provider
    record.client_x_road_instance, record.client_member_class = client.instance, client.member_class
    record.client_member_code, record.client_subsystem_code = client.member_code, client.subsystem
    record.service_x_road_instance, record.service_member_class = provider.instance, provider.member_class
    record.service_member_code, record.service_subsystem_code = provider.member_code, provider.subsystem
    record.service_code, record.service_version = service.code, service.version
    record.message_id = cut(request.query_id)
    record.message_user_id = cut(request.user_id)
    party_class, slash, party_code = (request.represented_party or "").partition("/")
    if request.represented_party:
        record.represented_party_class, record.represented_party_code = (
            (cut(party_class), cut(party_code)) if slash else (None, cut(party_class))
        )
    sizes, answered, head = course.request_sizes, course.response_sizes or (), course.response_head
    if isinstance(request, SoapRequest):
        record.message_issue, record.message_protocol_version = cut(request.header.issue), cut(request.header.protocol_version)
        record.service_type = course.service_type or _SOAP
        record.request_size = len(request.head)
        if sizes is not None:
            record.request_attachment_count = len(sizes)
            record.request_mime_size = len(request.head) + sum(sizes) if sizes else None
        if head is not None:
            record.response_size, record.response_attachment_count = head, len(answered)
            record.response_mime_size = head + sum(answered) if answered else None
        return
    record.message_issue, record.message_protocol_version = cut(request.issue), REST_VERSION
    record.service_type = course.service_type or _REST
    record.rest_method = cut(request.method)
    if request.request_id:
        record.x_request_id = cut(request.request_id)
    record.request_size = len(request.head) + sum(sizes or ())
    if head is not None:
        record.status_code, record.response_size = course.status, head + sum(answered)


def _path(request: RestRequest) -> str:
    """Decoded and normalised; only decoded where that cannot be done."""
    path = normalised(request.service_path)
    return unquote(request.service_path) if path is None else path


def _sizes(body: Body | None) -> tuple[int, ...]:
    if body is None:
        return ()
    return body.sizes


def internal_address(bound: str) -> str:
    """The box's address in its own network: where the listener is bound, or what the default route goes out from (nothing is sent)."""
    if bound not in ("0.0.0.0", "::", ""):  # noqa: S104  # nosec B104  a comparison
        return bound
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            found: str = probe.getsockname()[0]
            return found
    except OSError:
        return "127.0.0.1"
