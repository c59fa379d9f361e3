"""The box as a Sparkplug edge node: which message follows which, and how they are numbered.

Pure. The box is the node, each of its processes a device. Births tell every metric, data what changed; a metric that no birth told
makes a new birth. A silent process gets its DDEATH; the node's death is the broker's, by will.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.health.report import INCIDENT_METRICS, Figure, Report
from appliance.net import sparkplug
from appliance.net.sparkplug import BDSEQ, DATETIME, REBIRTH, Kind, Metric, Payload, Topic

LIVE, CONFIRMED = 0, 1
"""Quality of service: births and data go as the specification asks; what comes out of the outbox waits for its PUBACK."""

_MOMENTS = {"Autonomy/Sealing ends", "Autonomy/Configuration expires", "Incident/At"}
"""Told as DateTime: milliseconds since 1970, from microseconds."""


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    quality: int = LIVE


class EdgeNode:
    """One box through all its sessions with the broker.

    Invariants: a session begins with NBIRTH, seq 0, and the bdSeq of its will; each following message of the session has the next seq
    modulo 256; data names only what a birth of the session named.
    """

    def __init__(self, group: str, edge_node: str, first_bdseq: int) -> None:
        self._group, self._edge_node = group, edge_node
        self._bdseq = first_bdseq % 256
        self._seq = 0
        self._node: dict[str, Figure] = {}
        self._devices: dict[str, dict[str, Figure]] = {}

    @property
    def commands(self) -> str:
        """The one topic that the box listens to."""
        return str(Topic(self._group, Kind.NCMD, self._edge_node))

    def will(self, now_us: int) -> Message:
        """For the session that is about to begin: gives it its bdSeq."""
        self._bdseq = (self._bdseq + 1) % 256
        return self.death(now_us)

    def death(self, now_us: int) -> Message:
        """NDEATH of the present session, for an orderly end."""
        metrics = (Metric(BDSEQ, self._bdseq, now_us // 1000),)
        topic = Topic(self._group, Kind.NDEATH, self._edge_node)
        return Message(str(topic), sparkplug.encode(Payload(now_us // 1000, metrics)), CONFIRMED)

    def births(self, report: Report) -> list[Message]:
        """The beginning of a session, and the answer to a rebirth command."""
        self._seq, self._node, self._devices = 0, {}, {}
        return [self._node_birth(report), *self._device_births(report)]

    def data(self, report: Report) -> list[Message]:
        """What changed since the last message of the session."""
        if not self._node or not report.node.keys() <= self._node.keys():
            return self.births(report)
        messages = []
        if changed := _changed(self._node, report.node):
            messages.append(self._message(Kind.NDATA, None, changed, report.at_us))
            self._node |= changed
        gone = [name for name in self._devices if _is_dead(report.devices.get(name))]
        for name in gone:
            del self._devices[name]
            messages.append(self._message(Kind.DDEATH, name, {}, report.at_us))
        for name, figures in report.devices.items():
            born = self._devices.get(name)
            if born is None or not figures.keys() <= born.keys():
                continue
            if changed := _changed(born, figures):
                messages.append(self._message(Kind.DDATA, name, changed, report.at_us))
                born |= changed
        return messages + self._device_births(report)

    def historical(self, report: Report) -> Message:
        """A report that waited in the outbox: the node's figures as they were, marked historical."""
        known = {name: value for name, value in report.node.items() if name in self._node}
        return self._message(Kind.NDATA, None, known, report.at_us, historical=True)

    def incident(self, number: int, at_us: int, figures: dict[str, Figure]) -> Message:
        """An incident, its number the same however often it is sent."""
        return self._message(Kind.NDATA, None, {"Incident/Number": number, "Incident/At": at_us, **figures}, at_us, quality=CONFIRMED)

    def obeys(self, topic: str, payload: bytes) -> bool:
        """Whether a message is the rebirth command to this node: the only thing that a box does at a broker's word (T08)."""
        if topic != self.commands:
            return False
        try:
            return sparkplug.decode(payload).value(REBIRTH) is True
        except sparkplug.SparkplugError:
            return False

    def _node_birth(self, report: Report) -> Message:
        self._node = dict.fromkeys(INCIDENT_METRICS) | report.node
        own = (Metric(BDSEQ, self._bdseq, report.at_us // 1000), Metric(REBIRTH, False, report.at_us // 1000))
        return self._message(Kind.NBIRTH, None, self._node, report.at_us, first=own)

    def _device_births(self, report: Report) -> list[Message]:
        messages = []
        for name, figures in report.devices.items():
            born = self._devices.get(name)
            if not _is_dead(figures) and (born is None or not figures.keys() <= born.keys()):
                self._devices[name] = dict(figures)
                messages.append(self._message(Kind.DBIRTH, name, figures, report.at_us))
        return messages

    def _message(
        self,
        kind: Kind,
        device: str | None,
        figures: dict[str, Figure],
        at_us: int,
        *,
        first: tuple[Metric, ...] = (),
        historical: bool = False,
        quality: int = LIVE,
    ) -> Message:
        metrics = first + tuple(_metric(name, value, at_us, historical) for name, value in figures.items())
        payload = sparkplug.encode(Payload(at_us // 1000, metrics, self._seq))
        self._seq = (self._seq + 1) % 256
        quality = CONFIRMED if historical else quality
        return Message(str(Topic(self._group, kind, self._edge_node, device)), payload, quality)


def _metric(name: str, value: Figure, at_us: int, historical: bool) -> Metric:
    if name in _MOMENTS:
        moment = value // 1000 if isinstance(value, int) else None
        return Metric(name, moment, at_us // 1000, DATETIME, historical=historical)
    return Metric(name, value, at_us // 1000, historical=historical)


def _changed(before: dict[str, Figure], after: dict[str, Figure]) -> dict[str, Figure]:
    return {name: value for name, value in after.items() if before.get(name) != value}


def _is_dead(figures: dict[str, Figure] | None) -> bool:
    return figures is None or figures.get("State") == "silent"
