"""Sparkplug B payloads and topics: known bytes, round trips, hostile input."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net import sparkplug
from appliance.net.sparkplug import (
    BYTES,
    DATETIME,
    FLOAT,
    INT32,
    Kind,
    Metric,
    Payload,
    SparkplugError,
    Topic,
    decode,
    edge_node_of,
    encode,
)

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: "\ud800" not in name)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=30), st.binary(max_size=30)
)
MOMENTS = st.none() | st.integers(0, 2**63)
METRICS = st.builds(Metric, NAMES, VALUES, MOMENTS, historical=st.booleans(), alias=st.none() | st.integers(0, 2**32))
PAYLOADS = st.builds(
    Payload,
    MOMENTS,
    st.lists(METRICS, max_size=8).map(tuple),
    st.none() | st.integers(0, 255),
    st.none() | st.text(max_size=9),
    st.none() | st.binary(max_size=9),
)


@given(PAYLOADS)
def test_what_is_encoded_is_decoded(payload: Payload) -> None:
    found = decode(encode(payload))
    assert (found.timestamp_ms, found.seq, found.uuid, found.body) == (payload.timestamp_ms, payload.seq, payload.uuid, payload.body)
    for given_metric, metric in zip(payload.metrics, found.metrics, strict=True):
        assert (metric.name, metric.value, metric.timestamp_ms) == (given_metric.name, given_metric.value, given_metric.timestamp_ms)
        assert (metric.alias, metric.historical) == (given_metric.alias, given_metric.historical)
        assert type(metric.value) is type(given_metric.value)


def test_the_bytes_are_those_of_the_specifications_protocol_buffer() -> None:
    payload = Payload(1, (Metric("bdSeq", 3, 2, datatype=sparkplug.UINT64),), 0)
    # timestamp=1; metric{name, timestamp=2, datatype=8, long_value=3}; seq=0
    assert encode(payload) == bytes.fromhex("0801 120d 0a056264536571 1802 2008 5803 1800".replace(" ", ""))


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (-5, INT32),
        (-(2**63), sparkplug.INT64),
        (2**64 - 1, sparkplug.UINT64),
        (1.5, FLOAT),
        (1_800_000_000_000, DATETIME),
        (b"\x00", BYTES),
    ],
)
def test_every_type_that_we_use_keeps_its_value(value: object, datatype: int) -> None:
    metric = Metric("m", value, datatype=datatype)  # type: ignore[arg-type]  # values of the table
    assert decode(encode(Payload(0, (metric,)))).metrics[0] == metric


def test_unknown_fields_are_skipped() -> None:
    known = encode(Payload(7, (Metric("a", "x"),), 9))
    assert decode(b"\xa2\x06\x03abc" + known + b"\xa9\x06" + bytes(8)).seq == 9
    dataset = b"\x12\x08\x0a\x01d\x8a\x01\x02\x08\x01"
    assert decode(dataset).metrics == (Metric("d", None),)


@pytest.mark.case("T08")
@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_one_named_error(data: bytes) -> None:
    try:
        decode(data)
    except SparkplugError:
        pass


@pytest.mark.case("T08")
@given(PAYLOADS, st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_payload_is_a_payload_or_one_named_error(payload: Payload, place: int, byte: int) -> None:
    data = bytearray(encode(payload) or b"\x00")
    data[place % len(data)] = byte
    try:
        decode(bytes(data))
    except SparkplugError:
        pass


def test_too_much_is_refused() -> None:
    with pytest.raises(SparkplugError):
        decode(bytes(sparkplug.PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(SparkplugError):
        decode(b"\x12\x00" * (sparkplug.METRICS_MAX + 1))
    with pytest.raises(SparkplugError):
        decode(b"\x08" + b"\xff" * 10 + b"\x01")


@given(NAMES, NAMES, st.none() | NAMES, st.sampled_from(Kind))
def test_a_topic_is_parsed_as_it_was_spelled(group: str, node: str, device: str | None, kind: Kind) -> None:
    device = (device or "d") if kind.startswith("D") else None
    topic = Topic(group, kind, node, device)
    spelled = str(topic)
    assert Topic.parse(spelled) == topic
    assert not set("+#\0") & set(spelled)
    assert spelled.count("/") == (4 if device else 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spBv1.0",
        "spBv1.0/Q/NDATA",
        "spAv1.0/Q/NDATA/a",
        "spBv1.0/Q/DDATA/a",
        "spBv1.0/Q/NDATA/a/b",
        "spBv1.0/Q/STATE/a",
        "spBv1.0//NDATA/a",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(SparkplugError):
        Topic.parse(text)


def test_an_edge_node_is_class_member_server_and_two_boxes_never_share_one() -> None:
    assert edge_node_of("MUN", "BENITO-JUAREZ", "SS1") == "MUN:BENITO-JUAREZ:SS1"
    assert edge_node_of("A:B", "C", "D") != edge_node_of("A", "B:C", "D")


def test_infinities_travel_too() -> None:
    assert decode(encode(Payload(0, (Metric("x", math.inf),)))).metrics[0].value == math.inf
