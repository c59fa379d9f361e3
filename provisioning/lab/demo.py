"""`ceiqroo demo`: the main job, shown step by step on a laboratory network of its own, and believed by two verifiers.

Message in, sealed, logged, delivered, answered, stamped; then one request's container is exported and judged by `xacbe verify` and by
OpenSSL alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from appliance.texts import set_language, text
from provisioning.lab import believe, network

BASE = "127.0.40"
"""Not the laboratory's default: a demonstration beside a laboratory that runs."""
PLACE = Path("build/demo")


class DemoFailedError(Exception):
    """A step did not show what it promises; the message says which."""


def run(language: str, keep: bool) -> int:
    """Shows everything; returns the exit code. With `keep` the network goes on running."""
    set_language(language)
    directory = PLACE.absolute()
    network.down(directory)
    shutil.rmtree(directory, ignore_errors=True)
    _title("demo.title")
    began = time.monotonic()
    lab = network.up(directory, 3, "softhsm", BASE, 1, lambda line: print(f"    {line}"))
    print(f"    {text('demo.up', seconds=f'{time.monotonic() - began:.1f}')}")
    try:
        _show(lab, directory)
    finally:
        if not keep:
            network.down(directory)
    if keep:
        _tell_addresses(lab, directory)
    else:
        print(f"\n{text('demo.down')}")
    return 0


def _show(lab: dict[str, Any], directory: Path) -> None:
    query_id = _show_exchange(lab)
    _show_refusal(lab)
    _title("demo.log")
    for number in (1, 2):
        _show_log(lab, number, query_id)
    container = _export(lab, directory, query_id)
    _believed_by_xacbe(lab, directory, container)
    _believed_by_openssl(lab, directory, container)


def _show_exchange(lab: dict[str, Any]) -> str:
    """A report of an incident from the municipality to the state ministry; returns its X-Road-Id."""
    _title("demo.exchange")
    client, service = lab["clients"][0]["id"], lab["services"][0]["id"]
    incident = {"tipo": "robo", "fecha": "2026-11-23T06:00:00Z", "municipio": "Benito Juárez", "lat": 21.16, "lon": -86.85}
    body = json.dumps({**incident, "descripcion": text("demo.incident")}, ensure_ascii=False)
    url = f"{lab['boxes'][0]['client_http']}/r1/{service}/incidentes"
    print(f"    curl -H 'X-Road-Client: {client}' -H 'Content-Type: application/json' \\\n         -d '{body}' \\\n         {url}")
    status, headers, answer = _http("POST", url, {"X-Road-Client": client, "Content-Type": "application/json"}, body.encode())
    _expect(status in (200, 201), f"{status} {answer[:300]!r}")
    print(f"    -> {status} {answer.decode()[:160]}")
    for name in ("x-road-id", "x-road-request-id", "x-road-request-hash"):
        print(f"       {name}: {headers[name]}")
    began = time.monotonic()
    for _ in range(20):
        status, _, _ = _http("GET", url, {"X-Road-Client": client})
        _expect(status == 200, f"GET {status}")
    print(f"    {text('demo.twenty', ms=f'{(time.monotonic() - began) * 50:.0f}')}")
    return headers["x-road-id"]


def _show_refusal(lab: dict[str, Any]) -> None:
    _title("demo.refusal")
    client = lab["clients"][0]["id"]
    refused = next(service["id"] for service in lab["services"] if service.get("refused"))
    status, headers, answer = _http("GET", f"{lab['boxes'][0]['client_http']}/r1/{refused}/incidentes", {"X-Road-Client": client})
    print(f"    {refused}\n    -> {status} X-Road-Error: {headers.get('x-road-error')}\n       {answer.decode()[:200]}")
    _expect("access_denied" in str(headers.get("x-road-error")), "the refusal names no access_denied")


def _show_log(lab: dict[str, Any], number: int, query_id: str) -> None:
    box = lab["boxes"][number - 1]
    print(f"    {box['server_id']}")
    deadline = time.monotonic() + 10
    while True:
        records = json.loads(_xacbe(box, "log", "list", "--id", query_id, "--reason", "demo", "--json"))
        if len(records) == 2 and all(record["state"] == "stamped" for record in records):
            break
        _expect(time.monotonic() < deadline, f"not every record of {query_id} was stamped: {records}")
        time.sleep(0.2)
    for record in sorted(records, key=lambda one: int(one["sequence"])):
        direction = text(f"demo.{record['direction']}")
        line = f"      {record['sequence']:>4}  {direction:10} {record['bytes']:>6} B  {record['at']}"
        print(f"{line}  {text('demo.stamped')} {record['stamped_at']}")


def _export(lab: dict[str, Any], directory: Path, query_id: str) -> Path:
    _title("demo.export")
    container = directory / "request.asice"
    _xacbe(lab["boxes"][1], "log", "export", query_id, "--request", "--reason", "demo", "--out", str(container))
    print(f"    {container} ({container.stat().st_size} B)")
    return container


def _believed_by_xacbe(lab: dict[str, Any], directory: Path, container: Path) -> None:
    _title("demo.xacbe")
    configuration = Path(lab["boxes"][0]["state"]) / "trust" / "configuration"
    anchor = lab["ceiqroo"]["anchor"]
    done = _run(
        [_command("xacbe"), "verify", str(container), "--configuration", str(configuration), "--anchor", anchor, "--language", _language()]
    )
    print(_indented(done.stdout))
    _expect(done.returncode == 0, f"xacbe verify: {done.returncode} {done.stderr}")


def _believed_by_openssl(lab: dict[str, Any], directory: Path, container: Path) -> None:
    _title("demo.openssl")
    print(_indented(believe.CUT.read_text()))
    for command, verdict in believe.judge(container, directory / "cut", lab["ceiqroo"]):
        print(f"    $ {command}\n      {verdict}")
    print(f"\n    {text('demo.believed')}")


def _tell_addresses(lab: dict[str, Any], directory: Path) -> None:
    _title("demo.kept")
    client, service = lab["clients"][0], lab["services"][0]["id"]
    for box in lab["boxes"]:
        print(f"    {box['server_id']:34} {box['client_http']}  {box['client_https']}")
    call = f"-H 'X-Road-Client: {client['id']}'"
    first = lab["boxes"][0]
    print(f"\n    curl -i {call} {first['client_http']}/r1/{service}/incidentes")
    print(f"    curl -i {call} -d '{{\"hola\":1}}' {first['client_http']}/r1/{service}/eco?x=1")
    secure = f"--cacert {lab['ceiqroo']['ca_cert']} --cert {client['cert']} --key {client['key']}"
    print(f"    curl -i {secure} {call} \\\n         {first['client_https']}/r1/{service}/incidentes")
    print(f"    {_command('ceiqroo')} fleet watch {directory}")
    print(f"    {_command('xacbe')} status --state {first['state']}")
    print(f"    {_command('ceiqroo')} lab down {directory}")


def _http(method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310  the laboratory's own address
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def _xacbe(box: dict[str, Any], *words: str) -> str:
    done = _run([_command("xacbe"), *words, "--state", box["state"]])
    _expect(done.returncode == 0, f"xacbe {' '.join(words)}: {done.stderr}")
    return done.stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _command(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _language() -> str:
    return text("demo.language")


def _title(key: str) -> None:
    print(f"\n== {text(key)}")


def _indented(block: str) -> str:
    return "\n".join(f"    {line}" for line in block.rstrip().splitlines())


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise DemoFailedError(otherwise)
