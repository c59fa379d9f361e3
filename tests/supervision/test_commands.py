"""`xacbe status|service|access|client` as programs against a real supervisor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervision.box import RunningProcess, make_box
from tests.supervision.recorder import AuditingRecorder

DESCRIPTION = {"openapi": "3.0.3", "info": {}, "paths": {"/incidentes": {"get": {}, "post": {}}}}
PEM = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = make_box(tmp_path_factory.mktemp("commands") / "box")
    recorder, supervisor = AuditingRecorder(state), RunningProcess(state, "supervisor")
    yield state
    supervisor.close()
    recorder.close()


def xacbe(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "import sys; from appliance.commands import main; sys.exit(main())"]
    return subprocess.run([*program, *words, "--state", str(state)], capture_output=True, text=True, timeout=20)


def shown(state: Path, *words: str) -> object:
    done = xacbe(state, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_person_configures_a_service_from_nothing_and_takes_it_away_again(box: Path, tmp_path: Path) -> None:
    description, pem = tmp_path / "openapi.json", tmp_path / "is.pem"
    description.write_text(json.dumps(DESCRIPTION))
    pem.write_text("subject=CN = system\n".replace("subject", "-----BEGIN NOTE-----\n") + PEM)
    full = "QROO-TEST/MUN/BENITO-JUAREZ/SOLOMON"

    assert "guardado" in xacbe(box, "client", "add", "SOLOMON", "--certificate", str(pem)).stdout
    added = xacbe(box, "service", "add", full, "incidentes", "--url", "http://127.0.0.1:1/api", "--description", str(description))
    assert (added.returncode, added.stderr) == (0, "")
    granted = xacbe(box, "access", "add", "SOLOMON/incidentes", "QROO-TEST/EST/SSP/SOLOMON", "--method", "get", "--path", "/incidentes")
    assert "puede usar" in granted.stdout
    assert xacbe(box, "access", "add", f"{full}/incidentes", "GROUP:seguridad").returncode == 0

    [client] = shown(box, "client", "list")  # type: ignore[misc]  # JSON
    assert (client["subsystem"], client["mode"], len(client["certificates"])) == (full, "mtls", 1)
    [service] = shown(box, "service", "list")  # type: ignore[misc]  # JSON
    assert (service["id"], service["kind"], service["timeout_s"]) == (f"{full}/incidentes", "OPENAPI3", 60)
    assert service["endpoints"] == [{"method": "GET", "path": "/incidentes"}, {"method": "POST", "path": "/incidentes"}]
    rights = shown(box, "access", "list", "--service", "SOLOMON/incidentes")
    assert rights == [
        {"service": f"{full}/incidentes", "client": "GROUP:seguridad", "method": "*", "path": "**"},
        {"service": f"{full}/incidentes", "client": "QROO-TEST/EST/SSP/SOLOMON", "method": "GET", "path": "/incidentes"},
    ]
    assert "GROUP:seguridad" in xacbe(box, "access", "list").stdout
    assert "http://127.0.0.1:1/api" in xacbe(box, "service", "list").stdout

    assert xacbe(box, "access", "remove", "SOLOMON/incidentes", "GROUP:seguridad").returncode == 0
    assert xacbe(box, "service", "remove", "SOLOMON", "incidentes").returncode == 0
    assert xacbe(box, "client", "remove", "SOLOMON").returncode == 0
    assert "No hay derechos de acceso" in xacbe(box, "access", "list").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("client", "add", "SOLOMON"), 1, "local.invalid"),
        (("client", "add", "SOLOMON", "--certificate", "/nonexistent"), 1, "command.unreadable"),
        (("client", "add", "OTHER/MUN/X/Y", "--mode", "http"), 1, "belongs to instance QROO-TEST"),
        (("service", "add", "SOLOMON", "x", "--url", "http://127.0.0.1:1/"), 1, "access.client_unknown"),
        (("service", "add", "SOLOMON", "x", "--url", "gopher://x"), 1, "url: must be http"),
        (("service", "add", "SOLOMON", "x", "--url", "http://x/", "--description", "http://127.0.12.9:1/x"), 1, "command.unreadable"),
        (("service", "add", "SOLOMON", "x"), 2, "--url"),
        (("service", "remove", "SOLOMON", "x"), 1, "access.unknown_service"),
        (("access", "add", "SOLOMON/x", "QROO-TEST/EST/SSP"), 1, "access.unknown_service"),
        (("access", "explode"), 2, "invalid choice"),
    ],
)
def test_a_mistake_is_said_with_its_kind(box: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = xacbe(box, *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_is_explained_in_the_chosen_language(box: Path) -> None:
    words = ("access", "remove", "SOLOMON/x", "QROO-TEST/EST/SSP")

    spanish, english = xacbe(box, *words).stderr, xacbe(box, *words, "--language", "en").stderr

    assert spanish == "local.no_such_right: ese derecho de acceso no existe (there is no such right)\n"
    assert english == "local.no_such_right: there is no such access right (there is no such right)\n"


@pytest.mark.parametrize("words", [("--help",), ("log", "--help"), ("log", "list", "--help")])
def test_help_has_its_titles_in_spanish(tmp_path: Path, words: tuple[str, ...]) -> None:
    shown_help = xacbe(tmp_path, *words).stdout

    assert shown_help.startswith("uso: xacbe ")
    assert "opciones:" in shown_help
    for english in ("usage", "positional", "options:", "show this"):
        assert english not in shown_help


@pytest.mark.parametrize("limit", ["0", "-1", "1000001", "x", "1e3", "٣"])
def test_a_limit_out_of_bounds_is_refused_and_not_changed(tmp_path: Path, limit: str) -> None:
    done = xacbe(tmp_path, "log", "list", f"--limit={limit}")

    assert done.returncode == 2
    assert "no es un número de 1 a 1000000" in done.stderr


def test_status_says_state_advice_and_processes_in_both_languages(box: Path) -> None:
    spanish, english = xacbe(box, "status").stdout, xacbe(box, "status", "--language", "en").stdout
    assert "Estado: SIN ALTA" in spanish
    assert "xacbe enrolment" in spanish
    assert "signer no responde" in spanish
    assert "State: UNPROVISIONED" in english
    assert "\x1b" not in spanish


def test_status_as_json_is_the_same(box: Path) -> None:
    document = shown(box, "status")
    assert isinstance(document, dict)
    assert (document["state"], document["token"], document["advice"][0]["key"]) == ("UNPROVISIONED", None, "advice.enrol")
    assert document["processes"][0]["process"] == "supervisor"


def test_without_a_supervisor_it_says_that_a_process_is_away(tmp_path: Path) -> None:
    done = xacbe(make_box(tmp_path / "empty"), "status")
    assert done.returncode == 3
    assert "process.away" in done.stderr


@pytest.mark.case("T31")
@pytest.mark.rule("IV.2.III.B")
def test_accounts_are_entered_shown_and_removed_and_a_wrong_one_is_refused(box: Path) -> None:
    assert shown(box, "account", "list") == []
    assert xacbe(box, "account", "add", "ana", "--role", "auditor").returncode == 0
    assert xacbe(box, "account", "add", "eva", "--role", "administrator", "--role", "auditor").returncode == 0
    assert shown(box, "account", "list") == [
        {"user": "ana", "roles": ["auditor"]},
        {"user": "eva", "roles": ["administrator", "auditor"]},
    ]
    assert xacbe(box, "account", "add", "Ana Pérez", "--role", "auditor").returncode == 1
    assert xacbe(box, "account", "add", "ana", "--role", "king").returncode == 2
    assert xacbe(box, "account", "remove", "ana").returncode == 0
    assert xacbe(box, "account", "remove", "ana").returncode == 1
    assert [account["user"] for account in shown(box, "account", "list")] == ["eva"]  # type: ignore[attr-defined]  # JSON


@pytest.mark.case("T31")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_the_role_enters_no_account_not_even_its_own(box: Path) -> None:
    """The kernel says who asks: the channel is open to this user, the role is not."""
    place = Path(tempfile.mkdtemp(prefix="xacbe-account-"))
    place.chmod(0o755)
    socket_file = box / "run" / "supervisor" / "console.sock"
    open_way = place / "run" / "supervisor"
    open_way.mkdir(parents=True)
    os.link(socket_file, open_way / "console.sock")
    (open_way / "console.sock").chmod(0o777)
    before = shown(box, "account", "list")
    program = "import sys; from appliance.commands import main; sys.exit(main())"
    words = ["account", "add", "uid:54321", "--role", "auditor", "--state", str(place)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *words], user=54321, group=54321, extra_groups=[], capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(place)
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("this checkout cannot be read by other users")

    assert done.returncode == 1, done.stderr
    assert "access.role_missing" in done.stderr
    assert shown(box, "account", "list") == before
