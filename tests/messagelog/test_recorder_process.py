"""The recorder as a process of its own: killed under load, out of disk, asked by the command."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import os
import pwd
import random
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from appliance import topology
from appliance.access.roles import AUDITOR, Account
from appliance.clock import SystemClock
from appliance.commands import main as xacbe
from appliance.errors import UnavailableError, XacbeError
from appliance.messagelog import record
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.record import MessageEntry
from appliance.messagelog.sealing import QUERY
from appliance.messagelog.stamping import PATIENCE_S
from appliance.messagelog.store import Limits, Store
from appliance.messagelog.wire import Append, Appended, Audit, LogStatus, Seal
from appliance.net.local_client import LocalClient, NeighbourAwayError
from appliance.net.local_server import Handler, LocalServer
from appliance.net.local_sockets import channel_path
from appliance.seal.verify import verify_container
from appliance.supervision.wire import Announcement
from appliance.trust.wire import StampReply, StampRequest, View
from tests.messagelog.drafts import salts
from tests.messagelog.log_box import HEAD, Authority
from tests.messagelog.wrapping_signer import WrappingSigner
from tests.seal.workshop import Workshop, known, parts_of
from tests.supervision.box import RunningProcess, bind_channels, make_box

KILLS = 20
IN_FLIGHT = 24


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_box(tmp_path / "box", recorder="reserve_bytes = 1048576\nsegment_bytes_max = 262144")


@pytest.fixture(autouse=True)
def signer(tmp_path: Path) -> Iterator[WrappingSigner]:
    """Of `box` below the test's directory, where every test here has its state."""
    part = WrappingSigner(tmp_path / "box")
    yield part
    part.close()


@pytest.fixture
def recorder(state: Path) -> Iterator[RunningProcess]:
    process = RunningProcess(state, "recorder")
    yield process
    process.close()


class Now:
    """The authority's clock is the machine's: the recorder under test reads that one too."""

    def now_us(self) -> int:
        return SystemClock().now_us()


@asynccontextmanager
async def trust_agent(state: Path, workshop: Workshop) -> AsyncIterator[Authority]:
    authority = Authority(workshop, Now())  # type: ignore[arg-type]  # only its wall time is asked

    async def stamp(caller: str, payload: bytes) -> StampReply:
        return await authority.call("stamp", msgspec.msgpack.decode(payload, type=StampRequest), StampReply, 1)

    async def view(caller: str, payload: bytes) -> View:
        await asyncio.sleep(1)
        return View(0, "QROO-TEST", 0, 0)

    async def none(caller: str, payload: bytes) -> None:
        raise UnavailableError("not here")

    handlers: dict[str, Handler] = {"stamp": stamp, "view": view, "own_evidence": none, "trust_status": none, "install_anchor": none}
    listeners = bind_channels(state, "trust_agent")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(LocalServer("trust_agent", handlers).serve(listeners))
        try:
            yield authority
        finally:
            task.cancel()
    for listener in listeners.values():
        listener.close()


@asynccontextmanager
async def supervisor(state: Path, *accounts: Account) -> AsyncIterator[list[Announcement]]:
    """What the recorder announces; it knows these accounts."""
    said: list[Announcement] = []

    async def announce(caller: str, payload: bytes) -> None:
        said.append(msgspec.msgpack.decode(payload, type=Announcement))

    async def none(caller: str, payload: bytes) -> None:
        raise UnavailableError("not here")

    handlers: dict[str, Handler] = {**dict.fromkeys(topology.BY_NAME["supervisor"].callers, none), "announce": announce}

    async def list_accounts(caller: str, payload: bytes) -> list[Account]:
        return list(accounts)

    handlers["list_accounts"] = list_accounts
    listeners = bind_channels(state, "supervisor")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(LocalServer("supervisor", handlers).serve(listeners))
        try:
            yield said
        finally:
            task.cancel()
    for listener in listeners.values():
        listener.close()


def sealed(workshop: Workshop, query_id: str, *, received: bool = True, body: bytes | None = None) -> Append:
    now_us = SystemClock().now_us()
    head = HEAD.format(id=query_id).encode()
    attachments = [] if body is None else [body]
    leaf = parts_of(head, attachments)
    (seal,) = workshop.sealed([leaf], now_us)
    return Append(
        "provider" if received else "client", "request", received, query_id, "r-1", "QROO-TEST/GOV/1001/solomon",
        "QROO-TEST/GOV/2002/geoportal/incidents", None, head, body, None, len(body or b""), leaf[1][1] if body else None,
        Seal(seal.signature, seal.chain_result, seal.chain, now_us, now_us), received,
        hashlib.sha512(seal.signature + head).digest() if received else None, now_us,
    )  # fmt: skip


def light(number: int) -> Append:
    """A message for load: its signature is no XML, which the log does not care about."""
    now_us = SystemClock().now_us()
    head = HEAD.format(id=f"L-{number}").encode()
    seal = Seal(f"<signature of {number // 5}>".encode() * 200, b"<result/>", b"<chain/>" * 40, now_us, now_us)
    key = hashlib.sha512(head).digest()
    return Append(
        "provider", "request", True, f"L-{number}", "r", "A/B/C/D", "A/B/C/D/E", None, head, None, None, 0, None, seal, True, key, now_us
    )


@pytest.mark.case("T32")
def test_of_what_was_acknowledged_nothing_is_lost_in_twenty_kills_under_load(
    state: Path, signer: WrappingSigner, recorder: RunningProcess
) -> None:
    acknowledged: dict[int, str] = {}
    numbers = itertools.count()
    chance = random.Random(7)  # noqa: S311  not for secrets

    killed = asyncio.Event()

    def said() -> str:
        return recorder.log.read_text()[-6000:]

    async def load(client: LocalClient) -> None:
        while not killed.is_set():
            number = next(numbers)
            try:
                answer: Appended = await client.call("append", light(number), Appended)
            except NeighbourAwayError:
                await asyncio.sleep(0.05)  # killed, or, on a busy machine, not up within a call's time
                continue
            assert answer.stamped_at_us is not None
            assert answer.sequence not in acknowledged, "a sequence was given twice"
            acknowledged[answer.sequence] = f"L-{number}"

    async def play() -> None:
        async with trust_agent(state, Workshop()):
            for kill in range(KILLS):
                before = len(acknowledged)
                client = LocalClient(channel_path(state, "recorder", "relay"))
                killed.clear()
                async with asyncio.TaskGroup() as group:
                    for _ in range(IN_FLIGHT):
                        group.create_task(load(client))
                    began_s = time.monotonic()
                    while len(acknowledged) < before + 20:
                        assert recorder.child.poll() is None, f"kill {kill}: it ended by itself\n{said()}"
                        assert time.monotonic() < began_s + 20, f"kill {kill}: {len(acknowledged) - before} acknowledged\n{said()}"
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(chance.random() * 0.1)
                    recorder.kill()
                    killed.set()
                client.close()
                if kill < KILLS - 1:
                    recorder.restart()

    asyncio.run(play())
    store = Store(OsDisk(state / "log"), Limits(), SystemClock(), salts())
    store.open()
    found = {}
    for _, each in store.records_from(1):
        entry = record.decode_entry(each.kind, each.payload)
        if isinstance(entry, MessageEntry):
            found[each.sequence] = entry.query_tag
    store.close()
    keys = asyncio.run(_keys(state, signer))
    lost = {sequence: name for sequence, name in acknowledged.items() if found.get(sequence) != keys.tag(QUERY, name)}

    assert lost == {}
    assert len(acknowledged) >= KILLS * 20
    assert sum(1 for each in recorder.events() if each["event"] == "log.opened") == KILLS


async def _keys(state: Path, signer: WrappingSigner) -> DataKeys:
    """The log's keys, as a recorder has them after its start."""
    with ThreadPoolExecutor(1) as executor:
        keys = DataKeys(state / "log", signer.token, SystemClock(), executor, logging.getLogger("recorder"))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(keys.run())
            while not keys.ready:
                await asyncio.sleep(0.01)
            running.cancel()
    return keys


@pytest.mark.case("T46")
def test_a_full_disk_refuses_messages_keeps_room_for_audit_and_recovers_by_itself(tmp_path: Path) -> None:
    state = make_box(tmp_path / "box", recorder="reserve_bytes = 1048576")
    (state / "log").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", state / "log"], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (not root)")
    (state / "log" / "ballast").write_bytes(bytes(3 << 20))
    process = RunningProcess(state, "recorder")
    try:
        _fill_up(state, process)
    finally:
        process.close()
        subprocess.run(["umount", state / "log"], check=True)


def _fill_up(state: Path, process: RunningProcess) -> None:
    relay, signer, console = (process.client(each) for each in ("relay", "signer", "console"))
    workshop = Workshop()

    def append(number: int) -> str:
        try:
            relay.call("append", sealed(workshop, f"Q-{number}", received=False, body=b"x" * 200_000), Appended)
        except XacbeError as error:
            return error.kind
        return "kept"

    results = [append(number) for number in range(40)]
    kept = results.count("kept")
    assert kept >= 5
    assert results[kept:] == ["log.full"] * (40 - kept)
    status: LogStatus = console.call("log_status", None, LogStatus)
    assert status.state == "full" or status.free_bytes < 2 << 20
    for number in range(30):
        signer.call("audit", Audit("key.generated", {"number": str(number)}))
    filler = state / "log" / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:  # somebody else takes the rest, to the last byte
        while True:
            file.write(bytes(4096))
    signer.call("audit", Audit("key.deleted", {"number": "31"}))  # the reserve is given up for it
    assert console.call("log_status", None, LogStatus).state == "full"
    assert append(100) == "log.full"
    filler.unlink()
    (state / "log" / "ballast").unlink()
    assert append(101) == "kept"
    assert console.call("log_status", None, LogStatus).state == "open"


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_a_trust_agent_that_hangs_costs_the_message_its_patience_and_is_named(state: Path, recorder: RunningProcess) -> None:
    async def play() -> None:
        workshop = Workshop()
        client = LocalClient(channel_path(state, "recorder", "relay"))
        async with supervisor(state) as said, trust_agent(state, workshop) as authority:
            authority.delay_s = 60
            async with asyncio.timeout(5):
                while not said or said[-1].waits_for:
                    await asyncio.sleep(0.1)
            began = time.monotonic()
            with pytest.raises(UnavailableError) as caught:
                await client.call("append", sealed(workshop, "Q-1"), Appended)
            assert caught.value.kind == "process.away"
            assert PATIENCE_S - 0.5 < time.monotonic() - began < PATIENCE_S + 1
            assert said[-1].waits_for == ["trust_agent"]
            authority.delay_s = 0
            await asyncio.to_thread(recorder.close)
        client.close()

    asyncio.run(play())


def test_it_stops_in_order_and_says_so_in_the_log(state: Path, recorder: RunningProcess) -> None:
    client = recorder.client("signer")
    client.call("audit", Audit("key.generated", {"label": "log"}))

    assert recorder.stop() == 0

    data = (state / "log" / "segments" / f"{1:020d}.log").read_bytes()
    kinds = [each.kind for each in record.records(data, record.mark_of(data) or 0)]
    assert kinds == [record.BOOT, record.AUDIT, record.CLOSE]


def test_nobody_but_the_relay_may_append(recorder: RunningProcess) -> None:
    with pytest.raises(XacbeError) as caught:
        recorder.client("signer").call("append", light(1), Appended)

    assert caught.value.kind == "caller.not_granted"


def test_the_command_lists_shows_and_exports(state: Path, recorder: RunningProcess, capsys: pytest.CaptureFixture[str]) -> None:
    workshop = Workshop()

    def command(*words: str) -> tuple[int, str]:
        code = xacbe(["log", words[0], "--state", str(state), "--language", "en", "--reason", "audit of the year", *words[1:]])
        return code, capsys.readouterr().out

    async def play() -> None:
        client = LocalClient(channel_path(state, "recorder", "relay"))
        own: Appended = await client.call("append", sealed(workshop, "Q-own", received=False, body=b"{}"), Appended)
        out = state / "own.asice"
        code, _ = await asyncio.to_thread(command, "export", "Q-own", "--out", str(out))
        assert code == 3  # nobody says who may read: nobody reads
        assert not out.exists()
        async with trust_agent(state, workshop), supervisor(state, Account(pwd.getpwuid(os.getuid()).pw_name, (AUDITOR,))):
            code, _ = await asyncio.to_thread(command, "export", str(own.sequence), "--out", str(out), "--wait", "10")
            assert code == 0
            report = verify_container(out.read_bytes(), known(workshop), None)
            assert report.verdict == "valid", report
            code, _ = await asyncio.to_thread(command, "export", "Q-own", "--out", str(state / "missing" / "own.asice"))
            assert code == 1
            answer: Appended = await client.call("append", sealed(workshop, "Q-2\x1b[2J"), Appended)
            assert answer.stamped_at_us is not None
            code, listed = await asyncio.to_thread(command, "list", "--json")
            assert code == 0
            assert [(each["query_id"], each["state"]) for each in json.loads(listed)] == [("Q-2\x1b[2J", "stamped"), ("Q-own", "stamped")]
            assert "\x1b" not in (await asyncio.to_thread(command, "list"))[1]
            code, shown = await asyncio.to_thread(command, "show", "Q-own")
            assert code == 0
            assert "X-Road-Client:QROO-TEST/GOV/1001/solomon" in shown
            _, spanish = await asyncio.to_thread(command, "show", "Q-own", "--language", "es")
            assert re.search(r"^lado +cliente\nmensaje +solicitud\nconsulta +Q-own$", spanish, re.MULTILINE), spanish
            assert (await asyncio.to_thread(command, "show", "nothing"))[0] == 1
            await asyncio.to_thread(recorder.close)
            assert (await asyncio.to_thread(command, "list"))[0] == 3
            await asyncio.sleep(0.1)  # the fake trust agent sees its caller go
        client.close()

    asyncio.run(play())
