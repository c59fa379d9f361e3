"""A whole network on loopback: brought up, described, taken down.

`up` plans it, starts the keeper with everything at once (any starting order works), enrols every box through the same files and commands
that a bench uses, and returns when every box is OPERATIONAL. A laboratory that exists already is started again as it was left.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance import clock as times
from appliance import durable, topology
from appliance.clock import SystemClock
from appliance.errors import UnavailableError, XacbeError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.supervision.wire import BoxStatus
from provisioning import enrolment, tpm_enrolment
from provisioning.authority import ca
from provisioning.centre import Centre
from provisioning.lab import addresses, box_token, broker, keeper, layout, manufacturer, tokens
from provisioning.lab.keeper import Plan, Unit
from provisioning.lab.layout import Box

Say = Callable[[str], None]
READY_S_MAX = 60.0
SOAP_SERVICES = ("consultaVehiculo", "adjuntaDocumentos", "recuperaDocumento")
LAB_FILE, MEMORY_FILE = "lab.json", "laboratory.json"
_CODE = Path(__file__).resolve().parents[2]


class LabError(UnavailableError):
    """The laboratory could not be brought up; the message says which part and where its log lies."""

    kind = "lab.failed"


def up(
    directory: Path,
    count: int,
    token: str,
    base: str,
    relays: int,
    say: Say,
    *,
    settings: str = "",
    instance: str = layout.INSTANCE,
    provider: Path = tokens.SOFTHSM_MODULE,
) -> dict[str, Any]:
    """Brings a laboratory up in `directory`; returns the document of `lab.json`. `settings`: more sections for every box.toml.
    `provider`: the PKCS#11 module behind the tokens, where that is not SoftHSM2 itself.

    Raises LabError, AddressError.
    """
    if status(directory) is not None:
        raise LabError(f"a laboratory runs already in {directory}")
    if token not in box_token.KINDS:
        raise LabError(f"token: one of {', '.join(box_token.KINDS)}")
    fresh = not (directory / MEMORY_FILE).exists()
    if fresh:
        memory: dict[str, Any] = {"boxes": count, "token": token, "base": base, "relays": relays, "instance": instance}
    else:
        memory = json.loads((directory / MEMORY_FILE).read_text())
    addresses.check_base(memory["base"])
    separate = layout.separate_users(_CODE)
    boxes = layout.boxes(directory, memory["base"], memory["boxes"], separate, memory.get("instance", instance))
    addresses.check_free(memory["base"], boxes)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    centre_address = f"{memory['base']}.1"
    centre = _centre(directory, centre_address, memory.get("instance", instance))
    units = _centre_units(directory) + broker.units(directory, centre, centre_address)
    units += _system_units(directory, memory["base"])
    for box in boxes:
        layout.make_state(box)
        token_units, signer = box_token.prepare(memory["token"], box, directory / "manufacturer", provider)
        (box.state / "box.toml").write_text(layout.settings_text(box, centre_address, signer) + settings)
        units += token_units
        units += layout.box_units(box, memory["relays"])
    (directory / keeper.PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(Plan(units)), indent=1))
    _start_keeper(directory)
    say(f"{len(units)} procesos")
    try:
        if fresh:
            _enrol_all(directory, boxes, centre, say)
        _await_operational(boxes, say)
    except BaseException:
        down(directory)
        raise
    (directory / MEMORY_FILE).write_text(json.dumps(memory) + "\n")
    document = describe(directory, boxes, memory, centre, separate)
    _write_document(directory, document)
    return document


def down(directory: Path) -> None:
    """Stops everything and waits until nothing runs. A laboratory that does not run is left as it is."""
    answer = keeper.ask(directory, "status")
    if answer is None:
        return
    keeper.ask(directory, "stop", timeout_s=60)
    deadline = time.monotonic() + 10
    while _alive(answer["pid"]):
        if time.monotonic() > deadline:
            os.kill(answer["pid"], signal.SIGKILL)
        time.sleep(0.02)


def status(directory: Path) -> dict[str, Any] | None:
    """`lab.json` with the process numbers of this moment, which it also gets; None where no laboratory runs."""
    answer = keeper.ask(directory, "status")
    if answer is None or not (directory / LAB_FILE).exists():
        return None
    written = (directory / LAB_FILE).read_text()
    document: dict[str, Any] = json.loads(written)
    _fill_pids(document, answer)
    if document != json.loads(written):
        _write_document(directory, document)
    return document


def _write_document(directory: Path, document: dict[str, Any]) -> None:
    durable.write_file(directory / LAB_FILE, json.dumps(document, indent=1).encode() + b"\n", 0o644)


def describe(directory: Path, boxes: Sequence[Box], memory: dict[str, Any], centre: Centre, separate: bool) -> dict[str, Any]:
    """The document of `lab.json`: addresses, files and identifiers that a test or a person needs."""
    base = memory["base"]
    at = f"{base}.1"
    document: dict[str, Any] = {
        "instance": centre.instance,
        "users": "separate" if separate else "single",
        "ceiqroo": {
            "address": at,
            "directory": str(centre.directory),
            "anchor": str(centre.anchor_file),
            "configuration_url": centre.configuration_url,
            "ca_cert": str(centre.authorities_file),
            "ocsp_url": centre.ocsp_url,
            "tsa_url": centre.tsa_url,
            "tsa_cert": str(centre.certificate_file("tsa", "pem")),
            "issuing_cert": str(centre.certificate_file("issuing", "pem")),
            "broker": broker.describe(directory, centre, at),
            "fleet_url": None,
        },
        "boxes": [
            {
                "server_id": box.server_id,
                "address": box.address,
                "client_http": f"http://{box.address}:8080",
                "client_https": f"https://{box.address}:8443",
                "peer_port": 5500,
                "ocsp_port": 5577,
                "state": str(box.state),
                "token": memory["token"],
                "subsystems": [box.subsystem],
                "pids": {},
            }
            for box in boxes
        ],
        "services": _services(boxes, base),
        "clients": [
            {
                "id": box.subsystem,
                "box": box.number,
                "mode": _mode(box),
                "cert": str(directory / "clients" / f"{box.number}.pem"),
                "key": str(directory / "clients" / f"{box.number}.key.pem"),
            }
            for box in boxes
        ],
    }
    answer = keeper.ask(directory, "status")
    if answer is not None:
        _fill_pids(document, answer)
    return document


def _fill_pids(document: dict[str, Any], answer: dict[str, Any]) -> None:
    pids: dict[str, dict[str, list[int]]] = {}
    for name, unit in answer["units"].items():
        owner, _, process = name.partition(".")
        process = process.partition(".")[0]
        if unit["pid"]:
            pids.setdefault(owner, {}).setdefault(process, []).append(unit["pid"])
    for number, box in enumerate(document["boxes"], start=1):
        box["pids"] = pids.get(f"box{number}", {})
    document["ceiqroo"]["pids"] = pids.get("ceiqroo", {})
    document["keeper"] = answer["pid"]


def _services(boxes: Sequence[Box], base: str) -> list[dict[str, Any]]:
    """`incidentes`, `reservado` and the SOAP services at SSP's box, the second one; a single box is client and provider."""
    soap = f"http://{base}.2:{layout.SOAP_SYSTEM_PORT}/vehiculos"
    system = f"http://{base}.2:{layout.SYSTEM_PORT}"
    provider = boxes[min(1, len(boxes) - 1)]
    return [
        {"id": f"{provider.subsystem}/incidentes", "kind": "OPENAPI3", "box": provider.number, "system_url": system},
        {"id": f"{provider.subsystem}/reservado", "kind": "REST", "box": provider.number, "system_url": system, "refused": True},
        *(
            {"id": f"{provider.subsystem}/{code}", "version": "v1", "kind": "WSDL", "box": provider.number, "system_url": soap}
            for code in SOAP_SERVICES
        ),
    ]


def _mode(box: Box) -> str:
    """The first client's system uses plain HTTP on its own machine, so that curl and wrk can; the others show the stricter modes."""
    return {1: "http", 2: "https"}.get(box.number, "mtls")


def _enrol_all(directory: Path, boxes: Sequence[Box], centre: Centre, say: Say) -> None:
    (directory / "clients").mkdir(exist_ok=True)
    (directory / "enrolment").mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        for requested in pool.map(lambda box: _request(directory, box), boxes):
            say(requested)
        _trust_manufacturer(directory, centre)
        for box in boxes:  # CEIQROO's officer signs one after the other
            _approve(directory, box, centre)
        for installed in pool.map(lambda box: _install(directory, box, boxes), boxes):
            say(installed)


def _request(directory: Path, box: Box) -> str:
    _xacbe(box, "enrolment", "request", "--out", str(directory / "enrolment" / f"{box.number}.request.json"))
    return f"{box.server_id}: claves en el token"


def _trust_manufacturer(directory: Path, centre: Centre) -> None:
    """As an officer does once with `ceiqroo tpm trust`."""
    for file in manufacturer.authorities(directory / "manufacturer"):
        durable.make_directory(centre.manufacturers_directory)
        durable.write_file(centre.manufacturers_directory / file.name, file.read_bytes(), 0o644)


def _approve(directory: Path, box: Box, centre: Centre) -> None:
    place = directory / "enrolment"
    request, answer = enrolment.read_request((place / f"{box.number}.request.json").read_bytes()), None
    if request.tpm is not None:
        asked, answered = place / f"{box.number}.challenge.json", place / f"{box.number}.answer.json"
        asked.write_bytes(msgspec.json.encode(enrolment.challenge(centre, request, SystemClock())) + b"\n")
        _xacbe(box, "attestation", "answer", str(asked), "--out", str(answered))
        answer = tpm_enrolment.read_answer(answered.read_bytes())
    approval = enrolment.approve(centre, request, box.address, SystemClock(), subsystems=["SOLOMON"], answer=answer)
    (place / f"{box.number}.approval.json").write_text(json.dumps(approval, indent=1) + "\n")


def _install(directory: Path, box: Box, boxes: Sequence[Box]) -> str:
    _xacbe(box, "enrolment", "install", str(directory / "enrolment" / f"{box.number}.approval.json"))
    # whoever brings a laboratory up commissions its boxes: administrator and auditor of them
    _xacbe(box, "account", "add", _own_user(), "--role", "administrator", "--role", "auditor")
    certificate = directory / "clients" / f"{box.number}.pem"
    _system_certificate(box, certificate, directory / "clients" / f"{box.number}.key.pem")
    _xacbe(box, "client", "add", box.subsystem, "--mode", _mode(box), "--certificate", str(certificate))
    incidentes, reservado, *soap = _services(boxes, box.address.rpartition(".")[0])
    if box.number == incidentes["box"]:
        url = incidentes["system_url"]
        document = str(_CODE / "provisioning" / "reference" / "openapi.json")
        _xacbe(box, "service", "add", box.subsystem, "incidentes", "--url", url, "--kind", "OPENAPI3", "--description", document)
        _xacbe(box, "service", "add", box.subsystem, "reservado", "--url", reservado["system_url"])
        _xacbe(box, "access", "add", incidentes["id"], boxes[0].subsystem)
        wsdl = str(_CODE / "provisioning" / "reference" / "vehiculos.wsdl")
        _xacbe(box, "service", "add", box.subsystem, "--kind", "WSDL", "--description", wsdl, "--url", soap[0]["system_url"])
        for service in soap:
            _xacbe(box, "access", "add", service["id"], boxes[0].subsystem)
    return f"{box.server_id}: certificados, ancla y sistemas instalados"


def _own_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"


def _xacbe(box: Box, *words: str) -> None:
    command = [str(Path(sys.executable).parent / "xacbe"), *words, "--state", str(box.state)]
    deadline = time.monotonic() + READY_S_MAX
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if done.returncode != 3 or time.monotonic() > deadline:  # 3: a process of the box is still starting
            raise LabError(f"{box.server_id}: xacbe {' '.join(words[:2])}: {done.stderr.strip()}")
        time.sleep(0.2)


def _await_operational(boxes: Sequence[Box], say: Say) -> None:
    """A box that is still AUTONOMOUS at the deadline exchanges messages all the same: said, and accepted."""
    deadline = time.monotonic() + READY_S_MAX
    for box in boxes:
        client = BlockingClient(channel_path(box.state, "supervisor", topology.CONSOLE), 5)
        state, waits = "?", ""
        while state != "OPERATIONAL":
            try:
                found: BoxStatus = client.call("box_status", None, BoxStatus)
                state = found.state
                waits = ", ".join(f"{one.process}: {' '.join(one.waits_for)}" for one in found.processes if one.waits_for)
            except XacbeError as error:
                state = error.kind
            if state == "AUTONOMOUS" and time.monotonic() > deadline:
                say(f"{box.server_id}: CEIQROO no le responde del todo después de {READY_S_MAX:.0f} s; se acepta así")
                break
            if state != "OPERATIONAL" and time.monotonic() > deadline:
                raise LabError(f"{box.server_id} is {state} ({waits}); logs in {box.state / 'journal'}")
            time.sleep(0.05)
        client.close()
        say(f"{box.server_id}: {state}")


def _centre(directory: Path, address: str, instance: str) -> Centre:
    place = directory / "ceiqroo"
    if (place / "centre.json").exists():
        return Centre.open(place)
    return ca.initialise(
        place,
        instance,
        address,
        SystemClock(),
        configuration_port=layout.CONFIGURATION_PORT,
        ocsp_port=layout.OCSP_PORT,
        tsa_port=layout.TSA_PORT,
        broker_port=layout.BROKER_PORT,
    )


def _centre_units(directory: Path) -> list[Unit]:
    command = [str(Path(sys.executable).parent / "ceiqroo"), "serve", str(directory / "ceiqroo")]
    return [Unit(name="ceiqroo.services", argv=command, log=str(directory / "ceiqroo.log"), stop_rank=1)]


def _system_units(directory: Path, base: str) -> list[Unit]:
    """The reference information systems, REST and SOAP: one each for all boxes, at an address of their own."""
    units = []
    for name, module, port in (("system", "incidentes", layout.SYSTEM_PORT), ("soap_system", "vehiculos", layout.SOAP_SYSTEM_PORT)):
        argv = [sys.executable, "-I", "-m", f"provisioning.reference.{module}", "--address", f"{base}.2", "--port", str(port)]
        units.append(Unit(name=f"ceiqroo.{name}", argv=argv, log=str(directory / f"{name}.log"), stop_rank=1))
    return units


def _system_certificate(box: Box, certificate: Path, key: Path) -> None:
    """The information system's own certificate: self-signed, known to its box by its bytes (sheet 9.2)."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{box.member_code} SOLOMON")])
    now = times.from_us(SystemClock().now_us())
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(int.from_bytes(secrets.token_bytes(16)) >> 1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def _start_keeper(directory: Path) -> None:
    with (directory / "keeper.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-I", "-m", "provisioning.lab.keeper", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    started.returncode = 0  # it outlives us: nobody here waits for it
    deadline = time.monotonic() + 10
    while keeper.ask(directory, "status") is None:
        if time.monotonic() > deadline:
            raise LabError(f"the keeper did not start; its log: {directory / 'keeper.log'}")
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
