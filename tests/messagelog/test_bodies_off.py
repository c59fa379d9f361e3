"""Where a subsystem keeps no bodies, its containers say so; `xacbe verify` judges head, seal and a body brought along."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.commands import main as xacbe
from appliance.messagelog import containers
from appliance.messagelog.wire import RecordContent
from tests.messagelog.log_box import SUBSYSTEMS, LogBox, append, read
from tests.messagelog.test_retention import change

BODY = b"what was said and is not kept"


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


@pytest.fixture
def content(box: LogBox) -> RecordContent:
    async def play() -> RecordContent:
        async with box.opened() as recorder:
            await change(recorder, SUBSYSTEMS[1], 30, bodies=False)
            written = await append(recorder, box.appends(["Q-1"], body=BODY)[0])
            return (await read(recorder, written.sequence))[0]

    return asyncio.run(play())


def verified(box: LogBox, container: bytes, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    (directory / "one.asice").write_bytes(container)
    trusted = {"ca": box.workshop.authority.certificate, "tsa": box.workshop.tsa}
    for name, certificate in trusted.items():
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    files = [word for name in trusted for word in (f"--{name}", str(directory / f"{name}.pem"))]
    code = xacbe(["verify", str(directory / "one.asice"), "--json", *files])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.rule("IV.2.III.C")
def test_a_container_without_its_body_verifies_and_says_what_is_not_stored(
    box: LogBox, content: RecordContent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = verified(box, containers.container_of(content, None), tmp_path, capsys)

    left_out = {"name": "/attachment1", "stored": False, "verified": False, "digest": hashlib.sha512(BODY).hexdigest()}
    assert (code, report["verdict"], report["attachments"]) == (0, "valid", [left_out])
    facts = next(step["facts"] for step in report["steps"] if step["name"] == "coverage")  # type: ignore[attr-defined]
    assert facts["not_stored"] == "1"


def test_the_body_itself_brought_along_verifies_and_another_one_does_not(
    box: LogBox, content: RecordContent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = verified(box, containers.container_of(content, BODY), tmp_path, capsys)
    assert (code, report["verdict"]) == (0, "valid")
    facts = next(step["facts"] for step in report["steps"] if step["name"] == "coverage")  # type: ignore[attr-defined]
    assert facts["not_stored"] == "0"

    code, report = verified(box, containers.container_of(content, BODY + b"!"), tmp_path, capsys)
    assert (code, report["verdict"]) == (1, "invalid")
