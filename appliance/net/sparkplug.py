"""Sparkplug B 3.0: topics, and the payload's protocol buffer by hand: the subset that we send and that a host may send us.

Pure. Field numbers and data types are those of the specification's `sparkplug_b.proto`. Decoding is bounded and raises SparkplugError only;
unknown fields are skipped, as protocol buffers ask.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

from appliance.errors import PeerProtocolError

NAMESPACE = "spBv1.0"
PAYLOAD_BYTES_MAX = 1 << 20
METRICS_MAX = 5000
BDSEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"

INT32, INT64, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING, DATETIME, BYTES = 3, 4, 8, 9, 10, 11, 12, 13, 17
"""Data types of the specification that we use; what others send comes with its number."""

_SIGNED_BITS = {1: 32, 2: 32, 3: 32, 4: 64}
"""Signed types by number, and the width of the field that carries them in two's complement."""

Value = str | int | float | bool | bytes | None


class SparkplugError(PeerProtocolError):
    """Not a Sparkplug payload, or a larger one than we take."""

    kind = "sparkplug.malformed"


class Kind(StrEnum):
    """Message types; the first letter says node or device."""

    NBIRTH = "NBIRTH"
    NDEATH = "NDEATH"
    NDATA = "NDATA"
    NCMD = "NCMD"
    DBIRTH = "DBIRTH"
    DDEATH = "DDEATH"
    DDATA = "DDATA"
    DCMD = "DCMD"


@dataclass(frozen=True, slots=True)
class Topic:
    """`spBv1.0/<group>/<kind>/<edge node>[/<device>]`; `edge_node` and `device` in plain form."""

    group: str
    kind: Kind
    edge_node: str
    device: str | None = None

    def __str__(self) -> str:
        device = "" if self.device is None else f"/{_spelled(self.device)}"
        return f"{NAMESPACE}/{_spelled(self.group)}/{self.kind}/{_spelled(self.edge_node)}{device}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Raises SparkplugError."""
        parts = text.split("/")
        if not 4 <= len(parts) <= 5 or parts[0] != NAMESPACE or parts[2] not in Kind.__members__ or "" in parts:
            raise SparkplugError("not a topic of Sparkplug B")
        kind = Kind(parts[2])
        if kind.startswith("D") != (len(parts) == 5):
            raise SparkplugError(f"a {kind} topic with {len(parts)} parts")
        return cls(unquote(parts[1]), kind, unquote(parts[3]), unquote(parts[4]) if len(parts) == 5 else None)


def edge_node_of(member_class: str, member_code: str, server_code: str) -> str:
    """A box's name as an edge node: `CLASS:MEMBER:SERVER`, a ":" inside a part percent-encoded."""
    return ":".join(quote(part, safe=" !$&'()*,;=@") for part in (member_class, member_code, server_code))


def _spelled(name: str) -> str:
    """Without the characters that mean something in MQTT topics."""
    for mark, code in (("%", "%25"), ("/", "%2F"), ("+", "%2B"), ("#", "%23"), ("\0", "%00")):
        name = name.replace(mark, code)
    return name


@dataclass(frozen=True, slots=True)
class Metric:
    """One value by name. `datatype` 0 is chosen from the value; `timestamp_ms` since 1970."""

    name: str
    value: Value
    timestamp_ms: int | None = None
    datatype: int = 0
    alias: int | None = None
    historical: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """`seq` 0 to 255; None in NDEATH and commands."""

    timestamp_ms: int | None
    metrics: tuple[Metric, ...]
    seq: int | None = None
    uuid: str | None = None
    body: bytes | None = None

    def value(self, name: str) -> Value:
        """The last value of that name, None where there is none."""
        return next((metric.value for metric in reversed(self.metrics) if metric.name == name), None)


def encode(payload: Payload) -> bytes:
    """The protocol buffer. Integers are taken modulo their width, as the specification writes signed ones."""
    out = bytearray()
    _put_optional(out, 1, payload.timestamp_ms)
    for metric in payload.metrics:
        _put_bytes(out, 2, _encode_metric(metric))
    _put_optional(out, 3, payload.seq)
    if payload.uuid is not None:
        _put_bytes(out, 4, payload.uuid.encode("utf-8", "replace"))
    if payload.body is not None:
        _put_bytes(out, 5, payload.body)
    return bytes(out)


def _encode_metric(metric: Metric) -> bytes:
    out = bytearray()
    if metric.name:
        _put_bytes(out, 1, metric.name.encode("utf-8", "replace"))
    _put_optional(out, 2, metric.alias)
    _put_optional(out, 3, metric.timestamp_ms)
    datatype = metric.datatype or datatype_of(metric.value)
    _put_varint(out, 4, datatype)
    if metric.historical:
        _put_varint(out, 5, 1)
    match metric.value:
        case None:
            _put_varint(out, 7, 1)
        case bool():
            _put_varint(out, 14, int(metric.value))
        case int():
            narrow = datatype in (1, 2, 3, 5, 6, 7)
            _put_varint(out, 10 if narrow else 11, metric.value & (0xFFFFFFFF if narrow else 0xFFFFFFFFFFFFFFFF))
        case float() if datatype == FLOAT:
            out += _key(12, 5) + struct.pack("<f", metric.value)
        case float():
            out += _key(13, 1) + struct.pack("<d", metric.value)
        case str():
            _put_bytes(out, 15, metric.value.encode("utf-8", "replace"))
        case bytes():
            _put_bytes(out, 16, metric.value)
    return bytes(out)


def datatype_of(value: Value) -> int:
    """The data type that we use for a Python value; a missing one is announced as a string."""
    for kind, datatype in ((bool, BOOLEAN), (int, INT64), (float, DOUBLE), (bytes, BYTES)):
        if isinstance(value, kind):
            return datatype
    return STRING


def decode(data: bytes) -> Payload:
    """Raises SparkplugError, nothing else."""
    if len(data) > PAYLOAD_BYTES_MAX:
        raise SparkplugError(f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX}")
    timestamp, seq, uuid, body = None, None, None, None
    metrics: list[Metric] = []
    for number, value in _fields(data):
        match number, value:
            case 1, int():
                timestamp = value
            case 2, bytes():
                metrics.append(_decode_metric(value))
                if len(metrics) > METRICS_MAX:
                    raise SparkplugError(f"more than {METRICS_MAX} metrics")
            case 3, int():
                seq = value
            case 4, bytes():
                uuid = _text(value)
            case 5, bytes():
                body = value
    return Payload(timestamp, tuple(metrics), seq, uuid, body)


def _decode_metric(data: bytes) -> Metric:
    name, value, datatype, historical = "", None, 0, False
    alias: int | None = None
    timestamp: int | None = None
    found: Value = None
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                name = _text(value)
            case 2, int():
                alias = value
            case 3, int():
                timestamp = value
            case 4, int():
                datatype = value
            case 5, int():
                historical = bool(value)
            case 10 | 11, int():
                found = value
            case 12 | 13, float():
                found = value
            case 14, int():
                found = bool(value)
            case 15, bytes():
                found = _text(value)
            case 16, bytes():
                found = value
    return Metric(name, _signed(found, datatype), timestamp, datatype, alias, historical)


def _signed(value: Value, datatype: int) -> Value:
    bits = _SIGNED_BITS.get(datatype)
    if bits is None or not isinstance(value, int) or isinstance(value, bool):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SparkplugError("a string is not UTF-8") from None


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of each field: wire types 0 (varint), 1 (double), 2 (bytes), 5 (float)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise SparkplugError("field number 0")
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire_type)
        if size is None:
            if wire_type != 2:
                raise SparkplugError(f"wire type {wire_type}")
            size, at = _varint(data, at)
        if at + size > len(data):
            raise SparkplugError("a field ends after the payload")
        piece, at = data[at : at + size], at + size
        yield number, piece if wire_type == 2 else struct.unpack("<d" if wire_type == 1 else "<f", piece)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise SparkplugError("a number without an end")


def _key(number: int, wire_type: int) -> bytes:
    out = bytearray()
    _append_varint(out, number << 3 | wire_type)
    return bytes(out)


def _put_optional(out: bytearray, number: int, value: int | None) -> None:
    if value is not None:
        _put_varint(out, number, value)


def _put_varint(out: bytearray, number: int, value: int) -> None:
    out += _key(number, 0)
    _append_varint(out, value)


def _put_bytes(out: bytearray, number: int, data: bytes) -> None:
    out += _key(number, 2)
    _append_varint(out, len(data))
    out += data


def _append_varint(out: bytearray, value: int) -> None:
    if not 0 <= value < 1 << 64:
        raise RuntimeError(f"{value} does not fit into 64 bits")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
