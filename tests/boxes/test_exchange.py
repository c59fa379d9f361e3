"""REST through two boxes, by a client that knows nothing of us: methods, headers, bodies, status codes, and X-Road's own headers."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import uuid

import pytest
import requests

from tests.boxes.conftest import Lab

pytestmark = pytest.mark.lab


def ask(lab: Lab, method: str, path: str, **more: object) -> requests.Response:
    headers = {"X-Road-Client": lab.client, **more.pop("headers", {})}  # type: ignore[dict-item]  # the tests' own keywords
    return requests.request(method, lab.url(path), headers=headers, timeout=30, **more)  # type: ignore[arg-type]  # same


@pytest.mark.rule("II.1.I", "I.4.XI-XII")
def test_a_request_comes_back_with_the_protocols_headers(lab: Lab) -> None:
    answer = ask(lab, "GET", "/incidentes", headers={"X-Road-Id": "caso-1"})

    assert answer.status_code == 200
    assert answer.headers["x-road-id"] == "caso-1"
    assert answer.headers["x-road-client"] == lab.client
    assert answer.headers["x-road-service"] == lab.service
    assert uuid.UUID(answer.headers["x-road-request-id"])
    assert len(base64.b64decode(answer.headers["x-road-request-hash"])) == 64


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_reaches_the_service_with_path_query_and_headers_untouched(lab: Lab, method: str) -> None:
    body = b'{"a": 1}' if method in ("POST", "PUT", "PATCH") else None
    sent = {"X-Own": "ñandú".encode().decode("latin-1"), "X-Road-UserId": "agente-7", "Content-Type": "application/x-thing"}

    answer = requests.request(
        method, lab.url("/eco/a%2Fb?x=1&y=%20z"), headers={"X-Road-Client": lab.client, **sent}, data=body, timeout=30
    )

    echoed = answer.json()
    assert echoed["method"] == method
    assert {name.lower(): value for name, value in echoed["headers"]}["x-road-userid"] == "agente-7"
    assert base64.b64decode(echoed["body_base64"]) == (body or b"")


def test_head_has_headers_and_no_body(lab: Lab) -> None:
    answer = ask(lab, "HEAD", "/incidentes")

    assert answer.status_code in (200, 405)
    assert answer.content == b""


@pytest.mark.parametrize("size", [0, 1, 1000, 65_535, 65_536, 65_537, 300_000, 5_000_000])
def test_a_body_of_any_size_arrives_as_it_was_sent_and_comes_back(lab: Lab, size: int) -> None:
    body = hashlib.sha512(b"%d" % size).digest() * (size // 64 + 1)
    body = body[:size]

    answer = ask(lab, "POST", "/bytes", data=body, headers={"Content-Type": "application/octet-stream"})

    assert answer.status_code in (200, 201), answer.text
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    downloaded = ask(lab, "GET", f"/bytes/{size}")
    assert len(downloaded.content) == size


def test_a_chunked_upload_arrives(lab: Lab) -> None:
    answer = ask(lab, "POST", "/bytes", data=iter([b"a" * 70_000, b"b" * 10, b"c" * 70_000]))

    assert answer.json()["bytes"] == 140_010


def test_the_providers_own_errors_pass_through(lab: Lab) -> None:
    answer = ask(lab, "GET", "/incidentes/NO-EXISTE")

    assert answer.status_code == 404
    assert "X-Road-Error" not in answer.headers


def test_a_request_over_https_with_a_client_certificate_is_answered(lab: Lab) -> None:
    client = lab.document["clients"][0]
    url = lab.url("/incidentes").replace("http://", "https://").replace(":8080", ":8443")

    done = subprocess.run(
        ["curl", "-sS", "--cacert", lab.document["ceiqroo"]["ca_cert"], "--cert", client["cert"], "--key", client["key"]]
        + ["-H", f"X-Road-Client: {lab.client}", "-w", "%{http_code}", "-o", "/dev/null", url],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "200", done.stderr


def test_every_message_of_an_exchange_is_in_both_logs_and_stamped(lab: Lab) -> None:
    query = f"registro-{uuid.uuid4()}"
    ask(lab, "POST", "/incidentes", json={"tipo": "prueba"}, headers={"X-Road-Id": query})

    for number in (1, 2):
        done = lab.xacbe(number, "log", "list", "--id", query, "--json")
        directions = sorted(record["direction"] for record in json.loads(done.stdout))
        assert directions == ["request", "response"], done.stderr


@pytest.mark.rule("I.4.III")
def test_a_client_without_a_right_is_refused_and_the_refusal_is_audited(lab: Lab) -> None:
    answer = requests.get(lab.url("/incidentes", lab.refused), headers={"X-Road-Client": lab.client}, timeout=30)

    assert answer.status_code == 500
    assert answer.headers["X-Road-Error"] == "server.serverproxy.access_denied"
    assert answer.json()["type"] == "server.serverproxy.access_denied"
    audits = json.loads(lab.xacbe(2, "log", "acts", "--json").stdout)
    refusals = [one for one in audits if one["event"] == "exchange.refused" and one["service"] == lab.refused]
    assert refusals[0]["kind"] == "access.no_right"
    assert refusals[0]["client"] == lab.client
    assert all(record["service"] != lab.refused for record in lab.records(2))
