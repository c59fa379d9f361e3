"""What CEIQROO knows of every box, out of the Sparkplug messages that it hears.

Pure: messages and moments in, boxes and rebirth requests out. A box that nobody has heard being born, or whose sequence has a gap, is
asked to tell everything again. Nothing that arrives is trusted to be small or well formed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.net import sparkplug
from appliance.net.sparkplug import BDSEQ, REBIRTH, Kind, Metric, Payload, SparkplugError, Topic, Value, edge_node_of

BOXES_MAX = 2000
DEVICES_MAX = 64
METRICS_MAX = 2000
INCIDENTS_MAX = 100
"""Newest kept for each box; the numbers of the others are forgotten."""
REQUEST_INTERVAL_US = 2_000_000
"""A box obeys one rebirth command in a second; another host may have asked at the same time."""
LATE_AFTER_US = 90 * 1_000_000
"""Three reports missed: the figures are old, whatever they say."""


@dataclass(frozen=True, slots=True)
class Incident:
    number: int
    at_ms: int
    kind: str
    process: str
    facts: str


@dataclass(slots=True)
class BoxView:
    """One box. `alive`: born, and its will was not published; None: never heard."""

    group: str
    edge_node: str
    alive: bool | None = None
    heard_us: int | None = None
    bdseq: Value = None
    seq: int | None = None
    born: bool = False
    """A birth of this session was heard and nothing since is missing."""
    gaps: int = 0
    requested_us: int | None = None
    metrics: dict[str, Value] = field(default_factory=dict)
    devices: dict[str, dict[str, Value]] = field(default_factory=dict)
    incidents: dict[int, Incident] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`DEAD` by its will, `UNHEARD`, or what the box says of itself."""
        if self.alive is None:
            return "UNHEARD"
        return str(self.metrics.get("State") or "UNKNOWN") if self.alive else "DEAD"

    def is_late(self, now_us: int) -> bool:
        return self.heard_us is not None and now_us - self.heard_us > LATE_AFTER_US

    @property
    def silent(self) -> list[str]:
        """Its processes that do not speak."""
        told = str(self.metrics.get("Silent processes") or "").split()
        return sorted({*told, *(name for name, figures in self.devices.items() if figures.get("State") == "silent")})


class FleetView:
    """Every box by group and edge node. Invariant: bounded, whatever is published."""

    def __init__(self, known: list[str] | None = None) -> None:
        """`known`: server ids (`INSTANCE/CLASS/MEMBER/SERVER`) that should be there, shown before they are heard."""
        self.boxes: dict[tuple[str, str], BoxView] = {}
        self.refused = 0
        for server_id in known or []:
            group, *parts = server_id.split("/")
            if len(parts) == 3:
                self._box(group, edge_node_of(*parts))

    def take(self, topic_text: str, data: bytes, now_us: int) -> None:
        """One message; what is not Sparkplug, or one box too many, is counted in `refused`."""
        try:
            topic, payload = Topic.parse(topic_text), sparkplug.decode(data)
        except SparkplugError:
            self.refused += 1
            return
        if topic.kind in (Kind.NCMD, Kind.DCMD):
            return
        box = self._box(topic.group, topic.edge_node)
        if box is None:
            self.refused += 1
        elif topic.kind == Kind.NDEATH:
            _take_death(box, payload)
        else:
            _take_living(box, topic, payload, now_us)

    def requests(self, now_us: int) -> list[tuple[str, bytes]]:
        """Rebirth commands to send now, (topic, payload): to boxes unheard or with a gap, each at most every two seconds."""
        wanted = []
        for box in self.boxes.values():
            asked_lately = box.requested_us is not None and now_us - box.requested_us < REQUEST_INTERVAL_US
            if not box.born and box.alive is not False and not asked_lately:
                box.requested_us = now_us
                command = Payload(now_us // 1000, (Metric(REBIRTH, True, now_us // 1000),))
                wanted.append((str(Topic(box.group, Kind.NCMD, box.edge_node)), sparkplug.encode(command)))
        return wanted

    def snapshot(self, now_us: int) -> list[dict[str, object]]:
        """Every box as plain values, in a fixed order."""
        return [_plain(box, now_us) for _, box in sorted(self.boxes.items())]

    def _box(self, group: str, edge_node: str) -> BoxView | None:
        found = self.boxes.get((group, edge_node))
        if found is None and len(self.boxes) < BOXES_MAX:
            found = self.boxes[group, edge_node] = BoxView(group, edge_node)
        return found


def _take_death(box: BoxView, payload: Payload) -> None:
    # A will of an earlier session may arrive after the next birth: its bdSeq tells it apart.
    if box.born and payload.value(BDSEQ) != box.bdseq:
        return
    box.alive, box.born, box.seq = False, False, None


def _take_living(box: BoxView, topic: Topic, payload: Payload, now_us: int) -> None:
    box.alive, box.heard_us = True, now_us
    if topic.kind == Kind.NBIRTH:
        box.born, box.bdseq, box.metrics, box.devices = True, payload.value(BDSEQ), {}, {}
    elif box.born and payload.seq != ((box.seq or 0) + 1) % 256:
        box.born, box.gaps = False, box.gaps + 1
    box.seq = payload.seq
    if topic.device is None:
        _put(box.metrics, payload)
        _put_incident(box, payload)
    elif topic.kind == Kind.DDEATH:
        box.devices.setdefault(topic.device, {})["State"] = "silent"
    elif topic.device in box.devices or len(box.devices) < DEVICES_MAX:
        if topic.kind == Kind.DBIRTH:
            box.devices[topic.device] = {}
        _put(box.devices.setdefault(topic.device, {}), payload)


def _put(figures: dict[str, Value], payload: Payload) -> None:
    for metric in payload.metrics:
        # What waited in the outbox is history: it must not hide what is now.
        if not metric.historical and (metric.name in figures or len(figures) < METRICS_MAX):
            figures[metric.name] = metric.value


def _put_incident(box: BoxView, payload: Payload) -> None:
    number, at_ms = payload.value("Incident/Number"), payload.value("Incident/At")
    if not isinstance(number, int) or not isinstance(at_ms, int):
        return
    kind, process, facts = (str(payload.value(f"Incident/{name}") or "") for name in ("Kind", "Process", "Facts"))
    box.incidents[number] = Incident(number, at_ms, kind, process, facts)
    while len(box.incidents) > INCIDENTS_MAX:
        del box.incidents[min(box.incidents)]


def _plain(box: BoxView, now_us: int) -> dict[str, object]:
    age_s = None if box.heard_us is None else round((now_us - box.heard_us) / 1e6, 1)
    return {
        "instance": box.group,
        "edge_node": box.edge_node,
        "state": box.state,
        "alive": bool(box.alive),
        "late": box.is_late(now_us),
        "age_s": age_s,
        "sequence_gaps": box.gaps,
        "silent": box.silent,
        "metrics": _readable(box.metrics),
        "processes": {name: _readable(figures) for name, figures in sorted(box.devices.items())},
        "incidents": [
            {"number": one.number, "at_ms": one.at_ms, "kind": one.kind, "process": one.process, "facts": one.facts}
            for one in box.incidents.values()
        ],
    }


def _readable(figures: dict[str, Value]) -> dict[str, object]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in sorted(figures.items())}
