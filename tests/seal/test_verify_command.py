"""`xacbe verify`: exit codes, JSON and both languages."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from appliance import texts
from appliance.commands import main
from appliance.seal.codes import CODES
from tests.seal.workshop import Workshop
from tests.vectors import VECTORS, needs_vectors

WORKSHOP = Workshop()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "message.asice").write_bytes(WORKSHOP.container(body=b"x"))
    (tmp_path / "ca.pem").write_bytes(WORKSHOP.root.public_bytes(Encoding.PEM) + WORKSHOP.issuing.public_bytes(Encoding.PEM))
    (tmp_path / "tsa.pem").write_bytes(WORKSHOP.tsa.public_bytes(Encoding.PEM))
    return tmp_path


def run(files: Path, *words: str | Path) -> int:
    return main(["verify", str(files / "message.asice"), "--state", str(files / "nowhere"), *map(str, words)])


def test_pem_files_alone_decide_a_container_of_ours(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(files, "--ca", files / "ca.pem", "--tsa", files / "tsa.pem", "--json")

    found = json.loads(capsys.readouterr().out)
    assert (code, found["verdict"], found["reason"], found["xroad_code"]) == (0, "valid", None, None)
    assert [step["number"] for step in found["steps"]] == list(range(11))
    assert found["attachments"][0]["verified"] is True


@pytest.mark.parametrize(("language", "word", "step"), [("es", "VÁLIDO", "ocho horas"), ("en", "VALID", "eight hours")])
def test_the_checklist_is_read_in_both_languages(
    files: Path, capsys: pytest.CaptureFixture[str], language: str, word: str, step: str
) -> None:
    run(files, "--ca", files / "ca.pem", "--tsa", files / "tsa.pem", "--language", language)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" 0 [ok] ")
    assert step in lines[10]
    assert lines[-1] == word


def test_an_invalid_container_says_why_and_ends_with_1(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = Workshop()
    (files / "ca.pem").write_bytes(stranger.issuing.public_bytes(Encoding.PEM))

    code = run(files, "--ca", files / "ca.pem", "--tsa", files / "tsa.pem", "--language", "en")

    out = capsys.readouterr().out
    assert code == 1
    assert "[chain.wrong_signature]" in out
    assert "cannot_create_cert_path" in out


@pytest.mark.parametrize("given", ["nothing", "only the CA", "only the TSA"])
def test_missing_trust_material_ends_with_2(files: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    words: dict[str, list[str | Path]] = {
        "nothing": [],
        "only the CA": ["--ca", files / "ca.pem"],
        "only the TSA": ["--tsa", files / "tsa.pem"],
    }

    assert run(files, *words[given], "--json") == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == "undecidable"


def test_files_that_cannot_be_read_end_with_2(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(files / "absent.asice")]) == 2
    assert run(files, "--configuration", files / "absent") == 2
    (files / "ca.pem").write_text("no certificate")
    assert run(files, "--ca", files / "ca.pem") == 2
    assert "no PEM certificate" in capsys.readouterr().err


def test_a_program_gets_a_report_even_where_nothing_could_be_judged(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tries = {
        "command.unreadable": [str(files / "absent.asice")],
        "configuration.absent": [str(files / "message.asice"), "--configuration", str(files / "absent")],
    }
    for reason, words in tries.items():
        assert main(["verify", *words, "--json"]) == 2
        found = json.loads(capsys.readouterr().out)
        assert (found["verdict"], found["reason"], found["xroad_code"]) == ("undecidable", reason, None)
        assert (found["steps"], found["attachments"]) == ([], [])


def test_several_files_and_folders_get_a_line_each(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "box" / "day").mkdir(parents=True)
    (files / "box" / "day" / "good.asice").write_bytes(WORKSHOP.container())
    (files / "box" / "bad.asice").write_bytes(b"no archive")
    (files / "box" / "notes.txt").write_text("no container")
    trust = ("--ca", files / "ca.pem", "--tsa", files / "tsa.pem")

    assert run(files, files / "box", *trust, "--json") == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(one["file"]).name, one["verdict"]) for one in found] == [
        ("message.asice", "valid"),
        ("bad.asice", "invalid"),
        ("good.asice", "valid"),
    ]
    assert run(files, files / "box" / "day", *trust) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 válidos, 0 no válidos, 0 sin decidir"
    assert run(files, files / "absent.asice", *trust) == 2
    (files / "empty").mkdir()
    assert main(["verify", str(files / "empty"), *map(str, trust)]) == 2


def test_certificates_may_be_der(files: Path) -> None:
    (files / "ca.cer").write_bytes(WORKSHOP.issuing.public_bytes(Encoding.DER))
    (files / "tsa.cer").write_bytes(WORKSHOP.tsa.public_bytes(Encoding.DER))

    assert run(files, "--ca", files / "ca.cer", "--tsa", files / "tsa.cer") == 0


@needs_vectors
def test_an_anchor_finds_what_lies_beside_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As somebody keeps what was downloaded: everything in one folder."""
    signed = VECTORS / "globalconf-signed"
    shutil.copy(signed / "configuration_anchor_CS_internal.xml", files / "anchor.xml")
    for path in (signed / "V6").rglob("*"):
        if path.is_file():
            shutil.copy(path, files / path.name)

    assert run(files, "--anchor", files / "anchor.xml", "--json") == 1  # believed: it does not know our TSA
    assert json.loads(capsys.readouterr().out)["reason"] == "seal.tsa_not_approved"


def test_a_thousand_containers_take_less_than_a_minute(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked of processor time, so that a busy machine does not decide."""
    (files / "many").mkdir()
    for at in range(100):
        (files / "many" / f"{at}.asice").hardlink_to(files / "message.asice")
    began = time.process_time()

    assert run(files, files / "many", "--ca", files / "ca.pem", "--tsa", files / "tsa.pem") == 0

    assert time.process_time() - began < 6
    assert len(capsys.readouterr().out.splitlines()) == 102


def test_a_moment_may_be_given(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trust = ("--ca", files / "ca.pem", "--tsa", files / "tsa.pem", "--json")

    assert run(files, *trust, "--at", "2026-11-23T12:30:00Z") == 0
    assert run(files, *trust, "--at", "2026-11-24T12:30:00") == 1
    capsys.readouterr()


@needs_vectors
@pytest.mark.case("T24")
def test_a_configuration_directory_and_x_roads_containers(capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(VECTORS / "globalconf-DEV-v3")
    folder = VECTORS / "asice"

    assert main(["verify", str(folder / "valid-batch-ts.asice"), "--configuration", directory]) == 0
    assert main(["verify", str(folder / "wrong-message.asice"), "--configuration", directory, "--json"]) == 1
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["xroad_code"] == "invalid_signature_value"


@needs_vectors
def test_an_anchor_decides_whether_the_configuration_is_believed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed = VECTORS / "globalconf-signed"
    anchor = signed / "configuration_anchor_CS_internal.xml"

    assert run(files, "--anchor", anchor) == 2
    assert "--configuration" in capsys.readouterr().err
    assert run(files, "--anchor", anchor, "--configuration", signed / "V6", "--json") == 1  # believed: it does not know our TSA
    assert json.loads(capsys.readouterr().out)["reason"] == "seal.tsa_not_approved"
    assert run(files, "--anchor", anchor, "--configuration", signed / "V6-rotated-keys") == 2
    assert "configuration.untrusted" in capsys.readouterr().err
    assert run(files, "--anchor", anchor, "--configuration", VECTORS / "globalconf-DEV-v3") == 2
    assert "configuration.absent" in capsys.readouterr().err


def test_every_reason_has_a_text() -> None:
    reasons = {
        *CODES,
        "seal.evidence_gap",
        *(f"verify.{name}" for name in ("no_configuration", "no_tsa", "no_ca", "unknown_instance", "no_moment")),
    }

    assert {f"verify.reason.{kind}" for kind in reasons} <= texts.TEXTS.keys()
