"""Fuzzing targets: configuration and settings, our own disk and processes, neighbours of the box."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from appliance import settings
from appliance.access import catalogue, wsdl
from appliance.commands import yaml_input
from appliance.courier import sftp_frames
from appliance.errors import UNREADABLE
from appliance.exchange import notices, signed_documents
from appliance.exchange.ports import Body
from appliance.hsm.wire import CheckpointRequest
from appliance.messagelog import checkpoint, proof, record
from appliance.messagelog import wire as log_wire
from appliance.model import xml_input
from appliance.net import frames, sparkplug
from appliance.trust import directory, global_configuration, optional_parts
from tests.commands.test_yaml_input import DESCRIPTION as YAML
from tests.fuzz.of_evidence import CA, TSA
from tests.fuzz.target import REFERENCE, Target
from tests.messagelog import drafts
from tests.messagelog.test_checkpoint import KEY as LOG_KEY
from tests.messagelog.test_checkpoint import NOTE
from tests.trust import centre, pki


@functools.cache
def directories() -> tuple[bytes, ...]:
    signer = pki.issue("CN=Configuration")
    made = centre.Directory(signer=signer, parts={"SHARED-PARAMETERS": b"<shared/>", "FETCHINTERVAL": b"<fetch/>"})
    return (made.body(),)


def _shared(data: bytes) -> None:
    global_configuration.parse_shared_parameters(data, 6)


@functools.cache
def anchors() -> tuple[bytes, bytes]:
    signer = pki.issue("CN=Configuration")
    sources = ("http://127.0.0.1:1/", signer)
    return centre.anchor(sources), centre.private(anchors=centre.anchor_sources(sources))


FETCH = b'<?xml version="1.0"?><xro:conf xmlns:xro="http://x-road.eu/xsd/xroad.xsd"><ocspFetchInterval>600</ocspFetchInterval></xro:conf>'


def _optional(data: bytes) -> None:
    optional_parts.parse_optional_parts({optional_parts.FETCH_INTERVAL: data})


class _Text:
    """A settings file that is not on a disk."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_text(self) -> str:
        return self._data.decode()


def _settings(data: bytes) -> None:
    file: Any = _Text(data)
    settings.load_all(file)


SETTINGS = (
    b'[box]\ninstance = "QROO-TEST"\nmember_class = "EST"\nmember_code = "SSP"\nserver_code = "SS1"\nlanguage = "en"\n'
    b'[relay]\nbody_bytes_max = 1048576\nhealth = "127.0.0.1:8088"\n[signer]\ntoken = "software"\n[courier]\nsftp_host = ""\n'
    b'[archivist]\ndirectory = "/x"\ndirectory_place = "MX"\n[reporter]\nbroker_host = "b"\nreport_interval_s = 5\n',
)


def _frames(data: bytes) -> None:
    reader, at = frames.FrameReader(), len(data) // 3
    for piece in (data[:at], data[at:]):
        for frame in reader.feed(piece):
            try:
                frames.decode_error(frame.payload)
            except UNREADABLE:
                continue


def frame_seeds() -> Sequence[bytes]:
    busy = frames.encode_error(7, XacbeErrorOfOurs())
    return frames.encode(0, 1, "append", msgspec.msgpack.encode([1, "x"])) * 2, busy


class XacbeErrorOfOurs(sparkplug.SparkplugError):
    """Any error that travels."""


RECORDS: tuple[Any, ...] = tuple(
    kind for kind in vars(log_wire).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
)
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in RECORDS)


def _wire(data: bytes) -> None:
    """Each record of the log's owner, as the local sockets read them."""
    for decoder in _DECODERS:
        try:
            decoder.decode(data)
        except UNREADABLE:
            continue


def wire_seeds() -> Sequence[bytes]:
    seal = log_wire.Seal(b"s", b"r", b"c", 1, 2)
    samples: list[Any] = [seal, log_wire.Audit("a", {"b": "c"}), log_wire.ListRecords(query_id="q"), log_wire.OpenBody(10)]
    return [msgspec.msgpack.encode(each) for each in samples]


def _entry(data: bytes) -> None:
    kind, payload = data[:1] or b"\x00", data[1:]
    for read in (
        lambda: record.decode_entry(kind[0], payload),
        lambda: record.decode_message(payload),
        lambda: record.decode_signature(payload),
    ):
        try:
            read()
        except UNREADABLE:
            continue
    found = record.read_linked(data)
    if found is not None:
        record.linked(found)
    for one in record.records(data, mark=record.mark_of(data) or 0):
        record.encode_entry(drafts.audit("x").entry) if one.kind < 0 else None


def entry_seeds() -> Sequence[bytes]:
    position = record.Position(0, bytes(32))
    head = record.segment_head(b"s" * 8)
    mark = record.mark_of(head) or 0
    payload = record.encode_entry(drafts.audit("console.login").entry)
    written = record.encode(position, mark, 1, 0, drafts.NOW_US, payload) + record.encode(
        position, mark, 1, 0, drafts.NOW_US, payload, b"content"
    )
    return head + written, bytes((record.AUDIT,)) + payload, record.encode_entry(drafts.message("q").entry)


def _note(data: bytes) -> None:
    checkpoint.read_note(data)
    checkpoint.check(data, [LOG_KEY.public_key])


def _proof(data: bytes) -> None:
    proof.check(data, [LOG_KEY.public_key])


def proof_seeds() -> Sequence[bytes]:
    """Of a log of one record."""
    position = record.Position(0, bytes(32))
    written = record.encode(position, 7, record.AUDIT, 0, drafts.NOW_US, record.encode_entry(drafts.audit("console.login").entry))
    found = record.read(written, 0, 7)
    assert found is not None
    linked = record.linked(found)
    root = hashlib.sha256(record.LEAF + linked).digest()
    note = LOG_KEY.sign(CheckpointRequest(1, root, drafts.NOW_US, None)).note
    return (proof.Proof(1, linked, (), note, LOG_KEY.certificate).text,)


def _sparkplug(data: bytes) -> None:
    sparkplug.decode(data)


def _topic(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    sparkplug.Topic.parse(text)


def sparkplug_seeds() -> Sequence[bytes]:
    metrics = (
        sparkplug.Metric("State", "OPERATIONAL", 5),
        sparkplug.Metric("n", -7, 5),
        sparkplug.Metric("f", 0.5, None),
        sparkplug.Metric("b", True, 1),
        sparkplug.Metric("none", None, 1),
    )
    return sparkplug.encode(sparkplug.Payload(1, metrics, 3)), sparkplug.encode(sparkplug.Payload(None, (), None))


def _sftp(data: bytes) -> None:
    answer = sftp_frames.answer(data or b"\x00")
    for read in (sftp_frames.version_of, sftp_frames.status_of, sftp_frames.string_of, sftp_frames.attributes_of):
        try:
            read(answer.rest)
        except sftp_frames.NotSftpError:
            continue


SFTP = (b"\x02\x00\x00\x00\x03\x00\x00\x00\x01a\x00\x00\x00\x01b", b"\x69\x00\x00\x00\x01\x00\x00\x00\x0f" + bytes(28))
QUERY = b"queryId=a&xRoadInstance=Q&memberClass=E&memberCode=S&subsystemCode=x%2Fy&unique&requestOnly"


def _notice(data: bytes) -> None:
    notices.read(Body(len(data), b"", inline=data))


ITEM = log_wire.NoticeItem(1, "ours", "q", "r", "request", "client", "Q/E/S/x", "Q/E/T/y/z", drafts.NOW_US, drafts.NOW_US)
NOTICE = notices.document("Q/E/S/x", [ITEM], for_peer=True)


def _asic_query(data: bytes) -> None:
    signed_documents.parse(data.decode("latin-1"))


def _wsdl(data: bytes) -> None:
    wsdl.operations_of(data)
    wsdl.rewritten(data)


def _yaml(data: bytes) -> None:
    found = yaml_input.as_json(data)
    if found is not data:
        json.loads(found)


def _openapi(data: bytes) -> None:
    catalogue.endpoints_of(data)
    catalogue.rewritten_description(data)


def _xml(data: bytes) -> None:
    for element in xml_input.parse_xml(data, bytes_max=1 << 16).iter():
        xml_input.local_name(element)


TARGETS: tuple[Target, ...] = (
    Target("directory", lambda data: directory.parse_directory(data), directories, 8),
    Target("shared-parameters", _shared, lambda: (centre.Shared(ca=CA, tsas=[("TSA", "http://127.0.0.1:2/", TSA)]).xml(),), 4),
    Target("anchor", global_configuration.parse_anchor, lambda: anchors()[:1], 3),
    Target("private-parameters", global_configuration.parse_private_parameters, lambda: anchors()[1:], 3),
    Target("optional-parts", _optional, lambda: (FETCH,), 3),
    Target("settings", _settings, lambda: SETTINGS, 3),
    Target("frames", _frames, frame_seeds, 10),
    Target("log-wire", _wire, wire_seeds, 8),
    Target("log-records", _entry, entry_seeds, 8),
    Target("checkpoint", _note, lambda: (NOTE,), 4),
    Target("proof", _proof, proof_seeds, 5),
    Target("sparkplug", _sparkplug, sparkplug_seeds, 10),
    Target("topic", _topic, lambda: (b"spBv1.0/QROO/DBIRTH/EST_SSP_SS1/relay", b"spBv1.0/g/NCMD/n"), 6),
    Target("sftp", _sftp, lambda: SFTP, 8, (sftp_frames.NotSftpError,)),
    Target("notice", _notice, lambda: (NOTICE,), 8),
    Target("asic-query", _asic_query, lambda: (QUERY,), 6),
    Target("wsdl", _wsdl, lambda: ((REFERENCE / "vehiculos.wsdl").read_bytes(),), 2),
    Target("openapi", _openapi, lambda: ((REFERENCE / "openapi.json").read_bytes(),), 3),
    Target("yaml", _yaml, lambda: (YAML,), 3),
    Target("xml", _xml, lambda: (b'<?xml version="1.0"?><a xmlns:b="c"><b:d e="f">g&amp;</b:d><h/></a>',), 6),
)  # fmt: skip
