"""X-Road's own wire messages, and ours in its form: each gets the outcome that its index names."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from appliance.clock import to_us
from appliance.commands import main
from appliance.commands.wire import judge
from appliance.configuration_files import load_directory
from appliance.net.transport_parts import BodyData, SealedMessage
from appliance.net.transport_protocol import TransportReader, whole_message
from tests.vectors import VECTORS, needs_vectors

pytestmark = needs_vectors
AT = "2026-11-23T06:00:00Z"
VALID, INVALID, UNDECIDABLE = ("valid", 0), ("invalid", 1), ("undecidable", 2)
MALFORMED = "signature_verification.malformed_signature"

BY_PYTHON = {
    "w-bad-order": (*INVALID, "transport.unexpected_part", "invalid_content_type"),
    "w-bad-schema": (*INVALID, "seal.malformed", MALFORMED),
    "w-bad-schema-ws": (*INVALID, "seal.malformed", MALFORMED),
    # X-Road believes this one: nothing in its signature covers the body.
    "w-bad-unused-body": (*INVALID, "seal.uncovered_part", f"{MALFORMED}.hashchain_unused_inputs"),
    "w-bad-upper-reqid": (*VALID, None, None),
    "w-bad-ws-root": (*VALID, None, None),
    "w-chain-missing-body-part": (*INVALID, "seal.chain_unknown_reference", f"{MALFORMED}.invalid_reference"),
    "w-empty-body": (*VALID, None, None),
    # A fault is passed on: it is no sealed message, and its code is the answer.
    "w-fault-after-head": (*INVALID, "peer.fault", "server.serverproxy.service_failed.io_error"),
    "w-fault-only": (*INVALID, "peer.fault", "server.serverproxy.service_failed.io_error"),
    "w-form-upper-part-headers": (*VALID, None, None),
    "w-no-ocsp": (*VALID, None, None),
    "w-resp-nobody": (*VALID, None, None),
    "w-rest-req-body": (*VALID, None, None),
    "w-rest-req": (*VALID, None, None),
    "w-rest-resp-body": (*VALID, None, None),
    "w-soap-att": (*VALID, None, None),
    "w-soap": (*VALID, None, None),
}
BY_XROAD = ("j-0", "j-1", "j-2", "j-3", "j-batch3-0", "j-batch3-2", "j-batch5-0", "j-batch5-2", "j-batch5-4")
OF_2013 = {
    "normal": (*UNDECIDABLE, "verify.no_configuration", None),
    "ocsp": (*UNDECIDABLE, "verify.no_configuration", None),
    "attachment": (*UNDECIDABLE, "verify.no_configuration", None),
    "extracontent": (*INVALID, "transport.extra_content", "invalid_message"),
    "invalid-contenttype-signature": (*INVALID, "transport.unexpected_part", "invalid_content_type"),
    "invalid-ocsp": (*INVALID, "transport.ocsp_malformed", "io_error"),
    "fault-signature": (*INVALID, "peer.fault", "CODE"),
}


def checked(
    capsys: pytest.CaptureFixture[str], path: Path, configuration: Path | None = None, at: str = AT
) -> tuple[int, dict[str, object]]:
    configuration = configuration or VECTORS / "generated/conf-LAB"
    code = main(["wire", "check", str(path), "--configuration", str(configuration), "--at", at, "--json"])
    return code, json.loads(capsys.readouterr().out)


def outcome(code: int, found: dict[str, object]) -> tuple[object, ...]:
    return found["verdict"], code, found["reason"], found["xroad_code"]


@pytest.mark.case("T04")
@pytest.mark.parametrize("name", BY_PYTHON)
def test_messages_built_by_the_recipe_get_the_verdict_of_their_index(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*checked(capsys, VECTORS / f"generated/wire-by-python/{name}.bin")) == BY_PYTHON[name]


@pytest.mark.parametrize("name", BY_XROAD)
def test_messages_of_x_roads_own_encoder_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*checked(capsys, VECTORS / f"generated/wire-by-xroad/{name}.bin")) == (*VALID, None, None)


@pytest.mark.parametrize("name", OF_2013)
def test_messages_of_2013_have_the_structure_that_x_road_finds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*checked(capsys, VECTORS / f"wire-2013/{name}.request")) == OF_2013[name]


def test_every_vector_is_in_the_tables() -> None:
    assert {path.stem for path in (VECTORS / "generated/wire-by-python").iterdir()} == set(BY_PYTHON)
    assert {path.stem for path in (VECTORS / "generated/wire-by-xroad").iterdir()} == set(BY_XROAD)
    assert {path.stem for path in (VECTORS / "wire-2013").iterdir()} == set(OF_2013)


def test_the_check_says_what_every_part_is(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = checked(capsys, VECTORS / "generated/wire-by-xroad/j-3.bin")

    assert set(found) == {"verdict", "reason", "xroad_code", "steps", "attachments", "parts", "fault"}
    parts = found["parts"]
    assert isinstance(parts, list)
    assert [(part["number"], part["what"], part["bytes"]) for part in parts] == [
        (1, "ocsp", 1247),
        (2, "head", 864),
        (3, "attachment", 5),
        (4, "attachment", 7),
        (5, "chain_result", 405),
        (6, "chain", 879),
        (7, "signature", 6507),
    ]
    assert parts[2]["type"] == "text/plain"
    attachments = found["attachments"]
    assert isinstance(attachments, list)
    assert [(one["name"], one["verified"]) for one in attachments] == [("/attachment1", True), ("/attachment2", True)]


def test_the_checklist_is_for_people_too(capsys: pytest.CaptureFixture[str]) -> None:
    path, configuration = VECTORS / "generated/wire-by-python/w-bad-unused-body.bin", VECTORS / "generated/conf-LAB"

    code = main(["wire", "check", str(path), "--configuration", str(configuration), "--at", AT, "--language", "en"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[0].split()[:3] == ["1", "OCSP", "response"]
    assert lines[-2:] == ["INVALID  seal.uncovered_part", f"X-Road: {MALFORMED}.hashchain_unused_inputs"]


def test_without_a_configuration_or_at_another_time_there_is_no_valid_seal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = VECTORS / "generated/wire-by-python/w-rest-req.bin"

    assert outcome(*checked(capsys, path, tmp_path)) == (*UNDECIDABLE, "verify.no_configuration", None)
    code = main(
        ["wire", "check", str(path), "--configuration", str(VECTORS / "generated/conf-LAB"), "--at", "2026-11-23T08:00:00Z", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert (code, found["reason"]) == (1, "ocsp.stale")


@pytest.mark.parametrize("data", [b"", b"no boundary", b"--", b"--\n", b"--x\r\n", b"--" + b"x" * 200])
def test_a_file_that_is_no_message_is_invalid_and_says_so(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "capture.bin"
    path.write_bytes(data)

    code, found = checked(capsys, path)

    assert (code, found["verdict"], found["reason"]) == (1, "invalid", "multipart.malformed")


def test_a_time_that_is_none_and_a_file_that_is_not_there_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    configuration = ["--configuration", str(VECTORS / "generated/conf-LAB")]

    assert main(["wire", "check", "/nowhere", *configuration]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["wire", "check", str(VECTORS / "INDEX.md"), *configuration, "--at", "noon"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name",
    ["wire-by-python/w-rest-req", "wire-by-python/w-rest-req-body", "wire-by-python/w-empty-body", "wire-by-python/w-rest-resp-body"]
    + [f"wire-by-xroad/{name}" for name in BY_XROAD if name not in ("j-2", "j-3")],
)
def test_what_x_road_wrote_we_write_byte_for_byte(name: str) -> None:
    data = (VECTORS / f"generated/{name}.bin").read_bytes()
    boundary = data.split(b"\r\n", 1)[0][2:]
    reader = TransportReader(boundary)
    body = b"".join(event.data for event in reader.feed(data) if isinstance(event, BodyData))
    found = reader.finish()
    assert isinstance(found, SealedMessage)

    again = whole_message(
        boundary,
        found.head.kind,
        found.head.data,
        body if found.bodies else None,
        found.signature,
        found.chain_result,
        found.chain,
        ocsp=found.head.ocsp,
    )

    # The samples that were built in Python leave out the blank that X-Road writes after the colon.
    assert again == re.sub(rb"\r\ncontent-type:(?! )", b"\r\ncontent-type: ", data)


@pytest.mark.case("T04")
@pytest.mark.parametrize(("part", "said", "changed"), [(b"<asic:", b"no", b"yes"), (b"<ns2:HashChain ", b"yes", b"no")])
def test_a_document_declares_itself_as_its_serialiser_does(part: bytes, said: bytes, changed: bytes) -> None:
    """Nobody signs the declaration; what X-Road never writes was written by somebody else."""
    data = (VECTORS / "generated/wire-by-xroad/j-1.bin").read_bytes()
    before, found, after = data.partition(part)
    start, _, end = before.rpartition(b'standalone="%b"' % said)
    assert found
    at_us = to_us(datetime.fromisoformat(AT))
    configuration = load_directory(VECTORS / "generated/conf-LAB")

    for declared, verdict in ((said, "valid"), (changed, "invalid")):
        whole = b"".join((start, b'standalone="%b"' % declared, end, found, after))
        assert judge([whole], configuration, at_us).verdict == verdict


@pytest.mark.case("T04")
def test_no_changed_byte_of_framing_head_body_or_result_is_believed() -> None:
    data = (VECTORS / "generated/wire-by-python/w-rest-req-body.bin").read_bytes()
    configuration = load_directory(VECTORS / "generated/conf-LAB")
    start, end = data.index(b"content-type:application/x-road-rest-request"), data.index(b"content-type:application/hash-chain\r\n")
    at_us = to_us(datetime.fromisoformat(AT))
    assert judge([data], configuration, at_us).verdict == "valid"

    believed = [
        at for at in range(start, end) if judge([data[:at], bytes([data[at] ^ 1]), data[at + 1 :]], configuration, at_us).verdict == "valid"
    ]

    assert believed == []
