"""Courier and archivist as processes of their own: killed over and over, told apart from each other's rights, asked by the command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance import topology
from appliance.commands import main as xacbe
from appliance.courier.wire import TargetState
from appliance.errors import UnavailableError
from appliance.messagelog.archive_wire import MadeArchive
from appliance.messagelog.cargo import CargoCounter, NotCarriedYetError
from appliance.net.local_server import Handler, LocalServer
from tests.courier import ssh_service
from tests.courier.loopback import LOOPBACK
from tests.courier.parcels import parcel
from tests.courier.ssh_service import SshService, key_pair
from tests.depth import DEEP
from tests.messagelog.log_box import LogBox, append
from tests.messagelog.test_archive import IDENTITY, chain
from tests.supervision.box import RunningProcess, bind_channels, make_box

KILLS = 100 if DEEP else 5
needs_sshd = pytest.mark.skipif(ssh_service.MISSING, reason="openssh-server is not installed")


async def none(caller: str, payload: bytes) -> None:
    raise UnavailableError("not here")


@asynccontextmanager
async def serving(state: Path, owner: str, handlers: dict[str, Handler]) -> AsyncIterator[None]:
    """Another process of the box, played by the test over real channels."""
    every: dict[str, Handler] = {**dict.fromkeys(topology.BY_NAME[owner].callers, none), **handlers}
    listeners = bind_channels(state, owner)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(LocalServer(owner, every).serve(listeners))
            try:
                yield
            finally:
                task.cancel()
    finally:
        for listener in listeners.values():
            listener.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshService]:
    with ssh_service.sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def box(tmp_path: Path, server: SshService, host_key: str = "") -> Path:
    (tmp_path / "place").mkdir()
    lines = [f'sftp_host = "{LOOPBACK}"', f"sftp_port = {server.port}", f'sftp_user = "{server.user}"', 'sftp_place = "MX"', "retry_s = 1"]
    lines += [f'sftp_directory = "{tmp_path / "place"}"', f'sftp_host_key = "{host_key or server.host_key}"']
    state = make_box(tmp_path / "box", courier="\n".join(lines))
    (state / "credentials" / "courier").mkdir(parents=True)
    shutil.copy(server.client_key, state / "credentials" / "courier" / "sftp_key")
    return state


@needs_sshd
@pytest.mark.case("T30")
def test_a_courier_that_is_killed_over_and_over_brings_every_archive_and_none_counts_before_it_is_there(
    tmp_path: Path, server: SshService
) -> None:
    state = box(tmp_path, server)
    place = tmp_path / "place"
    chance = random.Random(5)  # noqa: S311  not for secrets
    name = f"sftp {server.user}@{LOOPBACK}:{server.port}{place}"

    async def play() -> None:
        counter = CargoCounter([name])
        async with serving(state, "archivist", counter.handlers()):
            courier = RunningProcess(state, "courier")
            try:
                for number in range(KILLS):
                    sent = parcel(tmp_path, 20_000_000, f"archive-{number}.zip.age")
                    file = tmp_path / sent.name
                    (tmp_path / "parcel").rename(file)
                    with pytest.raises(NotCarriedYetError):
                        await counter.carried(file, sent.sha256, wait_s=0.0)
                    await asyncio.sleep(chance.uniform(0, 1.0))
                    courier.kill()
                    courier.restart()
                    await counter.carried(file, sent.sha256, wait_s=120)
                    assert hashlib.sha256((place / sent.name).read_bytes()).hexdigest() == sent.sha256
                    os.close(sent.descriptor)
                    file.unlink()
                    (place / sent.name).unlink()
                assert os.listdir(place) == []
            finally:
                courier.close()

    asyncio.run(play())


@needs_sshd
def test_the_command_names_what_is_wrong_with_a_target(tmp_path: Path, server: SshService, capsys: pytest.CaptureFixture[str]) -> None:
    state = box(tmp_path, server, host_key=key_pair(tmp_path / "other"))
    courier = RunningProcess(state, "courier")
    try:
        assert xacbe(["archive", "targets", "--check", "--json", "--state", str(state)]) == 1
        (told,) = json.loads(capsys.readouterr().out)["targets"]
        assert (told["state"], told["place"], told["tries"]) == ("courier.host_key_wrong", "MX", 1)
        settings = (state / "box.toml").read_text()
        key = settings.split('sftp_host_key = "')[1].split('"')[0]
        (state / "box.toml").write_text(settings.replace(key, server.host_key))
        courier.kill()
        courier.restart()
        assert xacbe(["archive", "targets", "--check", "--state", str(state)]) == 0
    finally:
        courier.close()


def test_a_courier_without_targets_loads_nothing_that_carries(tmp_path: Path) -> None:
    courier = RunningProcess(make_box(tmp_path / "box"), "courier")
    try:
        assert courier.client("console").call("list_targets", None, list[TargetState]) == []
        maps = Path(f"/proc/{courier.child.pid}/maps").read_text()
        status = Path(f"/proc/{courier.child.pid}/status").read_text()
    finally:
        courier.close()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert "lxml" not in maps
    assert "cryptography" not in maps
    assert resident < 40 << 10, f"{resident} KiB"


@pytest.mark.case("T30")
def test_an_archivist_that_is_killed_over_and_over_archives_every_message_once_in_one_chain(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    lines = [f'directory = "{place}"', 'directory_place = "MX"', f'recipients = "{IDENTITY.to_public()}"', "archive_bytes_max = 1048576"]
    state = make_box(tmp_path / "box", archivist="\n".join(lines))
    (state / "archive").mkdir()
    log = LogBox(tmp_path / "log")
    chance = random.Random(6)  # noqa: S311  not for secrets

    async def play() -> None:
        async with log.opened() as recorder, serving(state, "recorder", dict(recorder.custodian.handlers())):
            archivist = RunningProcess(state, "archivist")
            try:
                for turn in range(KILLS):
                    for number in range(6):
                        await append(recorder, log.appends([f"Q-{turn}-{number}"], body=os.urandom(400_000).hex()[:60_000].encode())[0])
                    await asyncio.sleep(chance.uniform(0.2, 1.0))
                    archivist.kill()
                    archivist.restart()
                made = await asyncio.to_thread(_until_archived, archivist, KILLS * 6)
            finally:
                archivist.close()
        names = chain(place, made)
        wanted = [f"Q-{turn}-{number}" for turn in range(KILLS) for number in range(6)]
        assert [name.split("-request")[0] for name in names] == wanted

    asyncio.run(play())


def _until_archived(archivist: RunningProcess, count: int) -> list[MadeArchive]:
    client = archivist.client("console")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        client.call("run_archive", None, list[MadeArchive])
        found = client.call("list_archives", None, list[MadeArchive])
        if sum(one.records[0] for one in found) == count:
            return found
    raise AssertionError("not archived in time")
