"""The reference information system as a real process."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from provisioning.reference import incidentes

ADDRESS = "127.0.11.1"
NEW = {
    "tipo": "incendio",
    "fecha": "2026-02-01T10:00:00-05:00",
    "municipio": "Tulum",
    "lat": 20.2,
    "lon": -87.4,
    "descripcion": "Ficticio.",
}


@pytest.fixture(scope="module")
def system() -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    words = ["--address", ADDRESS, "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "provisioning.reference.incidentes", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"http://{ADDRESS}:{port}", process.pid
        process.terminate()
        assert process.wait(timeout=3) in (0, -15)


@pytest.mark.rule("I.4.XXII.b")
def test_an_incident_that_is_reported_can_be_read_and_listed(system: tuple[str, int]) -> None:
    base, _ = system
    made = requests.post(f"{base}/incidentes", json=NEW, timeout=5)

    assert made.status_code == 201
    incident = made.json()
    assert incident == NEW | {"folio": incident["folio"]}
    assert requests.get(base + made.headers["location"], timeout=5).json() == incident
    listed = requests.get(f"{base}/incidentes", params={"municipio": "Tulum", "limite": "1"}, timeout=5).json()
    assert listed == {"total": 1, "incidentes": [incident]}


@pytest.mark.parametrize(
    "change",
    [{"lat": 91}, {"lon": "x"}, {"fecha": "ayer"}, {"tipo": ""}, {"descripcion": "x" * 2001}, {"folio": "QROO-1"}, {"municipio": None}],
)
def test_what_is_not_an_incident_is_refused(system: tuple[str, int], change: dict[str, object]) -> None:
    answer = requests.post(f"{system[0]}/incidentes", json=NEW | change, timeout=5)

    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_other_paths_methods_and_sizes_are_refused(system: tuple[str, int]) -> None:
    base, _ = system
    assert requests.get(f"{base}/incidentes/NINGUNO", timeout=5).status_code == 404
    assert requests.get(f"{base}/", timeout=5).status_code == 404
    assert requests.delete(f"{base}/incidentes", timeout=5).status_code == 405
    assert requests.get(f"{base}/incidentes?limite=0", timeout=5).status_code == 400
    assert requests.get(f"{base}/incidentes?limite=%C2%B2", timeout=5).status_code == 400
    assert requests.post(f"{base}/incidentes", data=bytes(incidentes.INCIDENT_BYTES_MAX + 1), timeout=5).status_code == 413
    assert requests.get(f"{base}/bytes/{incidentes.DOWNLOAD_BYTES_MAX + 1}", timeout=5).status_code == 400
    assert requests.get(f"{base}/lento/120001", timeout=5).status_code == 400


def test_the_echo_shows_what_arrived_to_the_byte(system: tuple[str, int]) -> None:
    base, _ = system
    answer = requests.request("PATCH", f"{base}/eco/a%2Fb?x=%C3%A9", data=b"\x00\xff", headers={"X-Road-Id": "7"}, timeout=5).json()

    assert (answer["method"], answer["path"], answer["query"]) == ("PATCH", "/eco/a%2Fb", "x=%C3%A9")
    assert ["x-road-id", "7"] in answer["headers"]
    assert (base64.b64decode(answer["body_base64"]), answer["body"]) == (b"\x00\xff", None)
    assert (answer["bytes"], answer["sha256"]) == (2, hashlib.sha256(b"\x00\xff").hexdigest())
    assert requests.post(f"{base}/eco", data="añil".encode(), timeout=5).json()["body"] == "añil"
    nothing = requests.get(f"{base}/eco", timeout=5).json()
    assert (nothing["bytes"], nothing["body"], nothing["body_base64"]) == (0, "", "")


def test_the_echo_of_a_long_body_is_its_length_and_digest(system: tuple[str, int]) -> None:
    for size in (incidentes.ECHO_KEPT_BYTES_MAX, incidentes.ECHO_KEPT_BYTES_MAX + 1):
        answer = requests.post(f"{system[0]}/eco", data=b"x" * size, timeout=5).json()

        assert (answer["bytes"], answer["sha256"]) == (size, hashlib.sha256(b"x" * size).hexdigest())
        assert (answer["body_base64"] is None, answer["body"] is None) == (size > incidentes.ECHO_KEPT_BYTES_MAX,) * 2


@pytest.mark.parametrize("count", [0, 1, incidentes.CHUNK_BYTES, incidentes.CHUNK_BYTES + 1])
def test_as_many_bytes_come_as_were_asked_for(system: tuple[str, int], count: int) -> None:
    answer = requests.get(f"{system[0]}/bytes/{count}", timeout=5)

    assert answer.content == (bytes(range(256)) * (count // 256 + 1))[:count]
    assert requests.head(f"{system[0]}/bytes/{count}", timeout=5).headers["content-length"] == str(count)


def test_large_bodies_in_both_directions_leave_memory_as_it_was(system: tuple[str, int]) -> None:
    base, pid = system
    before = psutil.Process(pid).memory_info().rss
    size = 64 << 20
    sent = hashlib.sha256(bytes(size)).hexdigest()

    def chunks() -> Iterator[bytes]:
        for _ in range(size >> 20):
            yield bytes(1 << 20)

    assert requests.post(f"{base}/bytes", data=chunks(), timeout=30).json() == {"bytes": size, "sha256": sent}
    echoed = requests.post(f"{base}/eco", data=chunks(), timeout=30).json()
    assert (echoed["bytes"], echoed["sha256"], echoed["body"], echoed["body_base64"]) == (size, sent, None, None)
    with requests.get(f"{base}/bytes/{size}", stream=True, timeout=30) as answer:
        assert sum(map(len, answer.iter_content(1 << 20))) == size
    assert psutil.Process(pid).memory_info().rss - before < 8 << 20


def test_a_slow_answer_holds_up_nobody_else(system: tuple[str, int]) -> None:
    base, _ = system
    slow = threading.Thread(target=lambda: requests.get(f"{base}/lento/800", timeout=5))
    slow.start()
    quick = requests.get(f"{base}/lento/0", timeout=5)

    assert quick.json()["pausa_ms"] == 0
    assert quick.elapsed.total_seconds() < 0.6
    slow.join()


@pytest.mark.rule("IV.4.I-II")
def test_the_description_names_exactly_what_the_system_answers(system: tuple[str, int]) -> None:
    base, _ = system
    served = requests.get(f"{base}/openapi.json", timeout=5).json()

    assert served == json.loads(Path(incidentes.DESCRIPTION_FILE).read_text())
    assert served["openapi"].startswith("3.")
    assert {path.split("/")[1] for path in served["paths"]} == set(incidentes.System._ENDPOINTS)
    echoed = requests.get(f"{base}/eco", timeout=5).json()
    assert (
        set(served["components"]["schemas"]["Eco"]["required"]) == set(served["components"]["schemas"]["Eco"]["properties"]) == set(echoed)
    )
    assert set(served["components"]["schemas"]["Incidente"]["required"]) == set(incidentes.Incident.__struct_fields__)
    assert served["components"]["schemas"]["Incidentes"]["properties"]["incidentes"]["maxItems"] == incidentes.PAGE_MAX
    operations = [operation["operationId"] for path in served["paths"].values() for operation in path.values()]
    assert len(operations) == len(set(operations))


def test_the_memory_of_incidents_is_bounded() -> None:
    kept = incidentes.Incidents()
    for _ in range(incidentes.INCIDENTS_MAX + 5):
        kept.add(incidentes.NewIncident(**{key: value for key, value in NEW.items()}))  # type: ignore[arg-type]  # one dict of mixed types

    assert len(kept.page(None, None, incidentes.INCIDENTS_MAX + 100)) == incidentes.INCIDENTS_MAX
    assert kept.find("QROO-000001") is None
