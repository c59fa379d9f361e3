"""The test profile, the same root: what is true inside, a killed process, an exchange with a laboratory box, and the watchdog."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from appliance import durable, topology
from appliance.clock import SystemClock
from appliance.topology import BY_NAME, PROCESSES, RESTING
from image import probe, reading, render, sandbox
from image.inside import page, unprovisioned
from image.machine import BOOT_S_MAX
from image.sandbox import user
from image.tools import ImageError
from provisioning import enrolment, tpm_enrolment
from provisioning.centre import Centre
from provisioning.lab import layout, manufacturer
from tests.image.boots.conftest import ADDRESS, BASE
from tests.image.boots.guest import Guest

ALPHABET = "".join(map(chr, range(33, 127))) + "áéíóúñ"
MEMBER_CLASS, MEMBER_CODE = "EST", "FGE"
SUBSYSTEM = f"{layout.INSTANCE}/{MEMBER_CLASS}/{MEMBER_CODE}/SOLOMON"
PEER_PORT, PEER_OCSP_PORT = 15500, 15577
"""Where the guest finds other boxes: 5500 and 5577 of its own loopback are its own."""
MEMORY_BYTES_MAX, SETTLED_S_MAX = 250_000_000, 120.0
"""What processes needed while they started goes back."""
BACK_S_MAX = 3.0
"""On a real processor; under emulation times the factor that the same loop takes here and there."""

LOOP = "import json, time; a = time.{clock}(); sum(i * i for i in range(2_000_000)); print(json.dumps(time.{clock}() - a))"
KILLED = """
import json, os, signal, subprocess, time
from pathlib import Path
from appliance.errors import XacbeError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.supervision.wire import BoxStatus
name, unit = "{name}", "{unit}"
box = BlockingClient(channel_path(Path("/var/lib/xacbe"), "supervisor", "console"), 60)
said = subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", unit], capture_output=True, text=True).stdout
killed, began = int(said), time.monotonic()
os.kill(killed, signal.SIGKILL)
while time.monotonic() - began < 300:
    try:
        status = box.call("box_status", None, BoxStatus)
    except XacbeError:
        continue
    if any(one.process == name and one.pid not in (0, killed) and one.age_s < 5 for one in status.processes):
        print(json.dumps(time.monotonic() - began))
        break
    time.sleep(0.05)
"""
TRIED = """
from pathlib import Path
from appliance.courier.sftp import SftpTarget
SftpTarget("{host}", {port}, "nobody", "/", "ssh-ed25519 AAAA", Path("/etc/os-release")).check()
"""
ASKED = {"archivist": "list_archives", "courier": "list_targets"}
"""What the console asks of those that rest."""
CALLED = """
import json, subprocess, time
from pathlib import Path
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
began = time.monotonic()
box = BlockingClient(channel_path(Path("/var/lib/xacbe"), "{name}", "console"), 300)
said = box.call("{operation}", None, list)
took = time.monotonic() - began
pid = subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", "{unit}"], capture_output=True, text=True).stdout.strip()
print(json.dumps([said, took, Path("/proc", pid, "status").read_text()]))
"""


def test_it_comes_up_unprovisioned_from_the_same_root(guest: Guest, screens: Path) -> None:
    unprovisioned(guest.machine)
    journal = guest.run("/usr/bin/journalctl", "-b", "-o", "short-monotonic", "--no-pager")
    (screens / "journal.txt").write_text(journal)
    print(guest.ask("run", argv=["/usr/bin/systemd-analyze", "blame", "--no-pager"])["out"][:1500])


def test_the_screen_is_read(guest: Guest, screens: Path, tmp_path: Path) -> None:
    guest.run("/usr/bin/systemctl", "stop", "xacbe-display.service")
    before = guest.machine.screen(tmp_path / "before.png").read_bytes()
    guest.write("/run/xacbe-test/alphabet", "\x1b[H\x1b[2J" + ALPHABET)
    guest.run("/usr/bin/cp", "/run/xacbe-test/alphabet", "/dev/tty1")
    alphabet = tmp_path / "alphabet.png"
    guest.machine.until(lambda: guest.machine.screen(alphabet).read_bytes() != before, BOOT_S_MAX, "alphabet on the screen")
    font = reading.learn(alphabet, ALPHABET + " " * 20)
    guest.run("/usr/bin/systemctl", "start", "xacbe-display.service")

    shown = reading.read(screens / "shipped.png", font)

    assert "CAJA XACBE" in shown
    assert "Estado: SIN ALTA" in shown
    assert re.search(r"trust_agent +en espera \(espera: settings, anchor", shown)
    assert re.search(r"Direcciones: (10\.0\.2\.\d+|ninguna)", shown)
    assert re.search(r"Memoria: \d+ de \d+ MiB", shown)


def test_memory_sockets_and_mounts_are_as_promised(guest: Guest) -> None:
    looks: list[dict[str, Any]] = []

    def settled() -> bool:
        looks.append(guest.facts())
        return bool(looks[-1]["memory"]["used"] * 1024 <= MEMORY_BYTES_MAX)

    with contextlib.suppress(ImageError):  # told below, with the figure
        guest.machine.until(settled, SETTLED_S_MAX, "settled memory")
    facts, mounts = looks[-1], looks[-1]["mounts"]

    print("memory, KiB:", facts["memory"])
    print("private, KiB:", {one["name"]: one["private"] for one in facts["processes"]})
    assert facts["memory"]["used"] * 1024 <= MEMORY_BYTES_MAX
    assert {int(at.rpartition(":")[2]) for at in facts["tcp"]} == set(render.listening().values())
    assert {int(at.rpartition(":")[2]) for at in facts["udp"]} <= {68}
    channels = {f"{render.RUN}/{one.name}/{caller}.sock": caller for one in PROCESSES for caller in topology.channels(one.name)}
    assert {path: facts["unix"].get(path) for path in channels} == {path: f"0600 {render.uid(one)}" for path, one in channels.items()}
    assert mounts["/"].startswith("erofs ro")
    assert {"nosuid", "nodev", "noexec"} <= set(mounts["/var"].split()[1].split(","))
    assert "CRYPT-VERITY" in guest.read("/sys/block/dm-0/dm/uuid")
    assert "[integrity]" in guest.read("/sys/kernel/security/lockdown")
    assert "policy drop" in guest.run("/usr/sbin/nft", "list", "chain", "inet", "box", "output")


def _main_pid(guest: Guest, unit: str) -> str:
    return guest.run("/usr/bin/systemctl", "show", "-p", "MainPID", "--value", unit).strip()


def test_what_rests_is_no_process_until_it_is_called(guest: Guest) -> None:
    for name in sorted(RESTING):
        unit = f"{user(name)}.service"
        guest.machine.until(lambda unit=unit: _main_pid(guest, unit) == "0", BOOT_S_MAX, f"end of {name}")  # type: ignore[misc]
        said, took, status = guest.python(CALLED.format(name=name, operation=ASKED[name], unit=unit))

        assert said == []
        _confined(name, status)
        print(f"{name}: started and answered after {took:.1f} s")


def _tried(guest: Guest, process: str, port: int) -> dict[str, Any]:
    """Runs the courier's own way to an SFTP server in the sandbox of a process, to a port of this machine. Any file passes for its key."""
    guest.write("/run/xacbe-test/try.py", TRIED.format(host=probe.HOST, port=port))
    lines = ["[Service]", "Type=oneshot", "ExecStart=/usr/bin/python3 -I -B /run/xacbe-test/try.py", *sandbox.lines(BY_NAME[process])]
    guest.write("/run/systemd/system/xacbe-try.service", "\n".join(lines) + "\n")
    guest.run("/usr/bin/systemctl", "daemon-reload")
    guest.tried("/usr/bin/systemctl", "start", "xacbe-try.service")
    return guest.tried("/usr/bin/journalctl", "-u", "xacbe-try.service", "--no-pager")


def test_ssh_speaks_from_the_courier_s_sandbox_and_from_no_other(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(BOOT_S_MAX)
        said: list[bytes] = []

        def listen() -> None:
            with server.accept()[0] as connection, connection.makefile("rb") as lines:
                said.append(lines.readline())

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        refused = _tried(guest, "relay", server.getsockname()[1])
        assert "/usr/bin/ssh: Permission denied" in refused["out"], refused["out"]
        assert not said
        spoken = _tried(guest, "courier", server.getsockname()[1])
        listening.join(BOOT_S_MAX)

    assert said, spoken["out"]
    assert said[0].startswith(b"SSH-2.0-OpenSSH")


def test_every_process_runs_as_its_own_user_without_a_right(guest: Guest) -> None:
    for process in PROCESSES:
        if process.rests:
            continue
        status = guest.read(f"/proc/{_main_pid(guest, render.service_name(process))}/status")
        _confined(process.name, status)
        locked = re.search(r"^VmLck:\s+(\d+)", status, re.MULTILINE)

        assert locked, process.name
        # It holds the PIN: its memory is never swapped. Programs and libraries are not kept with it.
        assert (int(locked[1]) > 0) == (process.name == "signer"), process.name


def _confined(name: str, status: str) -> None:
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))

    assert facts["Uid"].split()[0] == str(render.uid(name)), name
    assert int(facts["CapEff"], 16) == 0, name
    assert facts["NoNewPrivs"] == "1", name
    assert facts["Seccomp"] == "2", name
    print(f"{name}: {int(facts['VmRSS'].split()[0]) // 1024} MiB resident")


def test_a_killed_process_is_back_within_three_seconds_of_a_real_processor(guest: Guest) -> None:
    """The same loop: its processor time here, its time by the clock in there, the longer one of before and after each kill."""
    python = ["/usr/bin/python3", "-I", "-c", LOOP.format(clock="process_time")]
    here = json.loads(subprocess.run(python, capture_output=True, text=True, check=True).stdout)
    told, before = {}, guest.python(LOOP.format(clock="perf_counter"))
    for name in sorted(set(BY_NAME) - RESTING):
        took = guest.python(KILLED.format(name=name, unit=f"{user(name)}.service"))
        after = guest.python(LOOP.format(clock="perf_counter"))
        told[name] = round(took, 1), round(max(before, after, here) / here, 1)
        before = after

    print("back after (s), emulation factor:", told)
    assert all(took <= BACK_S_MAX * factor for took, factor in told.values()), told


@pytest.fixture(scope="module")
def broker(lab: Path) -> Iterator[list[str]]:
    """Topics of everything that the broker carried since the laboratory came up."""
    at = json.loads((lab / "lab.json").read_text())["ceiqroo"]["broker"]
    command = ["mosquitto_sub", "-h", at["host"], "-p", str(at["port"]), "--cafile", at["ca"], "--cert", at["monitor_cert"]]
    command += ["--key", at["monitor_key"], "-V", "mqttv5", "-t", "spBv1.0/#", "-F", "%t"]
    topics: list[str] = []
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def keep() -> None:
        for line in child.stdout or ():
            topics.append(line.strip())

    reading_on = threading.Thread(target=keep, daemon=True)
    reading_on.start()
    with child:  # closes the pipe
        yield topics
        child.terminate()
        reading_on.join()


@pytest.fixture(scope="module")
def enrolled(guest: Guest, lab: Path, broker: list[str], machines: Path) -> dict[str, Any]:
    """The guest as a box of the laboratory: its settings, keys made in its TPM, certificates, a client."""
    document: dict[str, Any] = json.loads((lab / "lab.json").read_text())
    provider = document["boxes"][1]["address"]
    centre_ports = (layout.CONFIGURATION_PORT, layout.OCSP_PORT, layout.TSA_PORT, layout.BROKER_PORT)
    guest.way_out([*((f"{BASE}.1", port, port) for port in centre_ports), (provider, PEER_PORT, 5500), (provider, PEER_OCSP_PORT, 5577)])
    guest.write(
        "/var/lib/xacbe/box.toml",
        f"""[box]
instance = "{layout.INSTANCE}"
member_class = "{MEMBER_CLASS}"
member_code = "{MEMBER_CODE}"
server_code = "SS1"
[signer]
token = "tpm2"
[relay]
peer_port = {PEER_PORT}
ocsp_port = {PEER_OCSP_PORT}
[reporter]
broker_host = "{BASE}.1"
broker_port = {layout.BROKER_PORT}
""",
    )
    guest.machine.until(lambda: SUBSYSTEM.rpartition("/")[0] in page(guest.machine), BOOT_S_MAX, "page with the box's name")
    guest.xacbe("enrolment", "request", "--out", "/run/request.json")
    centre = Centre.open(lab / "ceiqroo")
    durable.make_directory(centre.manufacturers_directory)
    for file in manufacturer.authorities(machines / "manufacturer"):
        durable.write_file(centre.manufacturers_directory / file.name, file.read_bytes(), 0o644)
    request = enrolment.read_request(guest.read("/run/request.json").encode())
    guest.write("/run/challenge.json", msgspec.json.encode(enrolment.challenge(centre, request, SystemClock())).decode())
    guest.xacbe("attestation", "answer", "/run/challenge.json", "--out", "/run/answer.json")
    answer = tpm_enrolment.read_answer(guest.read("/run/answer.json").encode())
    approval = enrolment.approve(centre, request, ADDRESS, SystemClock(), subsystems=["SOLOMON"], answer=answer)
    guest.write("/run/approval.json", json.dumps(approval))
    guest.xacbe("enrolment", "install", "/run/approval.json")
    guest.xacbe("client", "add", SUBSYSTEM, "--mode", "http")
    guest.xacbe("account", "add", "root", "--role", "administrator", "--role", "auditor")
    service = document["services"][0]["id"]
    state = document["boxes"][1]["state"]
    xacbe = Path(sys.executable).parent / "xacbe"
    subprocess.run([str(xacbe), "access", "add", service, SUBSYSTEM, "--state", state], check=True, capture_output=True)
    return document


def test_configured_it_comes_into_operation_with_its_keys_in_the_tpm(guest: Guest, enrolled: dict[str, Any]) -> None:
    def operational() -> bool:
        return bool(json.loads(guest.xacbe("status", "--json"))["state"] == "OPERATIONAL")

    guest.machine.until(operational, BOOT_S_MAX, "state OPERATIONAL")
    status = json.loads(guest.xacbe("status", "--json"))

    assert status["token"]["maker"] == "tpm2"
    assert status["token"]["state"] == "ready"
    assert not [name for name in guest.run("/usr/bin/ls", "-R", "/var/lib/xacbe/keys").split() if name.endswith((".pem", ".key"))]


def test_it_seals_and_exchanges_a_message_with_a_laboratory_box(guest: Guest, enrolled: dict[str, Any], lab: Path) -> None:
    service = enrolled["services"][0]["id"]
    url = f"http://{ADDRESS}:8080/r1/{service}/incidentes"
    said: list[str] = []

    def exchanged() -> requests.Response | None:
        """Asked again: configuration and status of certificates reach the box by and by."""
        try:
            answer = requests.get(url, headers={"X-Road-Client": SUBSYSTEM}, timeout=120)
        except requests.RequestException as error:
            said.append(repr(error))
            return None
        said.append(answer.text)
        return answer if answer.status_code == 200 else None

    try:
        answer = guest.machine.until(exchanged, BOOT_S_MAX, "answer")
    except ImageError as error:
        raise AssertionError(said[-3:]) from error

    assert answer.json()
    query_id = answer.headers["x-road-id"]
    records = json.loads(guest.xacbe("log", "list", "--id", query_id, "--reason", "a test", "--json"))
    state = enrolled["boxes"][1]["state"]
    xacbe = Path(sys.executable).parent / "xacbe"
    command = [str(xacbe), "log", "list", "--id", query_id, "--reason", "a test", "--json", "--state", state]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(records) == 2
    assert len(json.loads(theirs.stdout)) == 2


def test_it_published_its_birth_and_its_health(guest: Guest, enrolled: dict[str, Any], broker: list[str]) -> None:
    node = f"{MEMBER_CLASS}:{MEMBER_CODE}:SS1"
    for kind in ("NBIRTH", "NDATA"):
        topic = f"spBv1.0/{layout.INSTANCE}/{kind}/{node}"
        guest.machine.until(lambda topic=topic: topic in broker, BOOT_S_MAX, topic)  # type: ignore[misc]


def test_the_watchdog_resets_a_machine_whose_first_process_hangs(guest: Guest) -> None:
    """Last: nothing is left after it. Frozen, not kept from its processor: the scheduler leaves a share to everybody (fair server)."""
    guest.write("/run/xacbe-test/yes", "1")
    guest.run("/usr/bin/cp", "/run/xacbe-test/yes", "/sys/fs/cgroup/init.scope/cgroup.freeze")

    guest.machine.until(lambda: guest.machine.happened("WATCHDOG"), BOOT_S_MAX, "bite of the watchdog")
    guest.machine.until(lambda: not guest.machine.running(), BOOT_S_MAX, "reset")
