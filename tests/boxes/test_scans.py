"""A running box seen by a scanner that knows nothing of us, and all that it gives out searched for secrets (T11, T60)."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.clock import SystemClock
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.tls_engine import HandshakeThreads
from provisioning.authority import ca
from provisioning.authority.profiles import Profile, certify, server_subject
from provisioning.centre import Centre
from tests.boxes.conftest import BIN, Lab
from tests.net.serving import run, serving
from tests.net.test_foreign_tls import answer, server_context
from tests.net.test_tls import made

pytestmark = pytest.mark.lab

SSLYZE = Path(__file__).resolve().parents[2] / "build" / "scan" / "bin" / "sslyze"
"""In an environment of its own (`make test` makes it): it wants an older `cryptography` than we have."""
SCAN_S_MAX = 120
needs_sslyze = pytest.mark.skipif(not SSLYZE.exists(), reason="sslyze is not there: `make build/scan/.ready`")
FOREIGN_SUITES = {"TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"}
"""Of X-Road's three those that our EC key can serve."""


@pytest.fixture(scope="module")
def peer_files(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of the right authority, that nobody registered: enough for the handshake, which is what is looked at."""
    centre, key = Centre.open(lab.directory / "ceiqroo"), ec.generate_private_key(ec.SECP256R1())
    server = ServerId(ClientId("QROO-TEST", "EST", "SSP"), "SS9")
    certificate = certify(
        Profile.PEER, server_subject(server, "scanner", "127.0.0.1"), key.public_key(), ca.issuer(centre), SystemClock().now_us()
    )
    place = tmp_path_factory.mktemp("scanner")
    (place / "c.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (place / "c.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return place / "c.pem", place / "c.key"


def command(place: str, level: str, authority: Path, certificate: Path, key: Path) -> list[str]:
    words = ["--cert", str(certificate), "--key", str(key), "--certinfo_ca_file", str(authority)]
    return [str(SSLYZE), *words, "--mozilla_config", level, place]


@needs_sslyze
@pytest.mark.case("T11")
@pytest.mark.rule("I.4.XVIII")
@pytest.mark.parametrize(("port", "level"), [(5500, "modern"), (8443, "intermediate")])
def test_a_port_complies_with_mozillas_configuration(lab: Lab, peer_files: tuple[Path, Path], port: int, level: str) -> None:
    """Between boxes TLS 1.3 alone; information systems may come with TLS 1.2 and authenticated encryption."""
    place = f"{lab.box(2)['address']}:{port}"
    words = command(place, level, Path(lab.document["ceiqroo"]["ca_cert"]), *peer_files)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SCAN_S_MAX)

    assert f"{place}: OK - Compliant." in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.returncode == 0


@needs_sslyze
@pytest.mark.case("T11")
def test_x_roads_profile_is_the_one_exception_and_differs_in_nothing_else(tmp_path: Path) -> None:
    """What port 5500 offers once a foreign server is named: the scanner objects to TLS 1.2 and its CBC suite, and to nothing beyond."""
    said: list[str] = []

    async def main() -> None:
        context = server_context(foreign=True)
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            words = command(f"127.0.0.1:{served.port}", "modern", made().ca.file, made().a.file, made().a.file)
            program = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
            said.append((await program.communicate())[0].decode())

    run(main, SCAN_S_MAX)
    objections = said[0].partition("FAILED - Not compliant.")[2]
    found = {line.partition(":")[0].strip(" *") for line in objections.splitlines() if line.strip().startswith("*")}
    found.discard("certificate_path_validation")  # the test's own certificate has no name
    assert found == {"tls_versions", "ciphers"}, said[0][-3000:]
    assert set(re.findall(r"TLS_\w+_CBC_\w+", said[0])) == FOREIGN_SUITES


# -- secrets


def outputs(lab: Lab) -> Iterator[tuple[str, bytes]]:
    """All that leaves a process, by name: files, command lines, environments, what the commands print, what the broker knows."""
    for file in lab.directory.rglob("*"):
        if not file.is_file() or file.is_symlink():
            continue
        try:
            data = file.read_bytes()
        except FileNotFoundError:  # the boxes go on working: journals of indexes, what waited for the broker
            continue
        yield str(file.relative_to(lab.directory)), data
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal():
            continue
        try:
            line = (place / "cmdline").read_bytes()
            if str(lab.directory).encode() in line:
                yield f"command line: {line!r}", line
                yield f"environment of {line!r}", (place / "environ").read_bytes()
        except OSError:  # ended meanwhile
            continue
    for number in (1, 2):
        for words in PRINTED:
            done = lab.xacbe(number, *words)
            assert done.stdout, (words, done.stderr)  # a box that is not well says so by its code, and prints all the same
            yield f"box {number}: {' '.join(words)}", (done.stdout + done.stderr).encode()
    fleet = subprocess.run(
        [str(BIN / "ceiqroo"), "fleet", "watch", str(lab.directory), "--json"], capture_output=True, check=False, timeout=60
    )
    assert fleet.returncode == 0, fleet.stderr
    yield "the fleet, from the broker", fleet.stdout + fleet.stderr


PRINTED: tuple[tuple[str, ...], ...] = (
    ("status", "--json"),
    ("status",),
    ("log", "list", "--json"),
    ("log", "acts"),
    ("log", "report", "--from", "2026-01-01", "--to", "2036-01-01"),
    ("operational", "list", "--json", "--limit", "3000"),
    ("key", "list"),
    ("token", "status"),
    ("service", "list"),
    ("access", "list"),
)


@pytest.mark.case("T60")
@pytest.mark.rule("I.4.III")
def test_what_a_message_holds_is_in_no_output(lab: Lab) -> None:
    """Canaries in bodies small and large, in headers and queries of a request and so of its answer; of refused and failed ones, too."""
    canaries = [f"canario-{number:02}-{uuid.uuid4().hex}" for number in range(20)]
    taken = iter(canaries)
    session = requests.Session()
    session.headers.update({"X-Road-Client": lab.client, "Connection": "close"})
    for size in (1, 9_000):  # inline, and in a file of the log
        body = json.dumps({"nombre": next(taken), "curp": next(taken)}).encode() * size
        sent = session.post(lab.url("/eco"), data=body, headers={"X-Secreto": next(taken)}, timeout=60)
        assert sent.status_code == 200, sent.text
    for status, service, path in ((200, None, "/eco"), (500, lab.refused, "/eco"), (404, None, "/no-such-thing")):
        url, headers = lab.url(f"{path}?q={next(taken)}", service), {"Authorization": next(taken)}
        sent = session.post(url, data=next(taken), headers=headers, timeout=30)
        assert sent.status_code == status, sent.text
    broken = session.post(lab.url("/eco"), data=next(taken), headers={"X-Road-Service": next(taken)}, timeout=30)
    assert broken.status_code in (200, 400, 500)
    time.sleep(2.5)  # operational records go out every two seconds

    wanted = [canary.encode() for canary in canaries]
    known = lab.client.encode()
    named, found = set[str](), set[tuple[str, int]]()
    for name, data in outputs(lab):
        found |= {(name, number) for number, canary in enumerate(wanted) if canary in data}
        named |= {name} if known in data else set()
    assert found == set()
    assert "box 1: log list --json" in named, "the search finds what is there"
    assert any(name.endswith("lab.json") for name in named)
