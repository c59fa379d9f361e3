"""Local sockets: frames in any cut, calls in flight, descriptors, a neighbour that dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import topology
from appliance.errors import PeerProtocolError, RefusedError
from appliance.net import frames, local_server, local_sockets, local_stream, transports
from appliance.net.frames import FrameError, FrameReader
from appliance.net.local_client import BlockingClient, LocalClient, NeighbourAwayError
from appliance.net.local_server import LocalServer, Reply
from appliance.supervision.announcements import INSTANCES_MAX

FRAME = st.builds(
    frames.Frame, st.just(frames.REQUEST), st.integers(0, 2**32 - 1), st.sampled_from(["a", "sign_seal"]), st.binary(max_size=80)
)


@given(st.lists(FRAME, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_cut_of_the_bytes_gives_the_same_frames(sent: list[frames.Frame], cuts: list[int]) -> None:
    stream = b"".join(frames.encode(frame.kind, frame.call, frame.name, frame.payload) for frame in sent)
    reader, found, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        found += reader.feed(stream[at : at + step])
        at, turn = at + step, turn + 1

    assert found == sent


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_frames_or_one_named_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):  # any other error fails the test
        FrameReader().feed(data)


@asynccontextmanager
async def a_recorder(
    tmp_path: Path, handlers: dict[str, local_server.Handler], at_once: dict[str, local_server.AtOnce] | None = None
) -> AsyncIterator[Callable[[str], Path]]:
    """A server for the recorder's operations, on one channel for each caller; those not under test answer nothing."""

    async def nothing(caller: str, payload: bytes) -> None:
        return None

    operations = dict.fromkeys(topology.BY_NAME["recorder"].callers, nothing)
    server = LocalServer("recorder", {**operations, **handlers}, at_once=at_once)
    listeners = {}
    for caller in ("relay", "console"):
        sock = socket.socket(socket.AF_UNIX)
        local_sockets.bind(sock, tmp_path / f"{caller}.sock")
        sock.listen()
        listeners[caller] = sock
    task = asyncio.ensure_future(server.serve(listeners))
    try:
        yield lambda caller: tmp_path / f"{caller}.sock"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for sock in listeners.values():
            sock.close()


def test_many_calls_are_in_flight_at_once_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async def scene() -> None:
        async def slow_echo(caller: str, payload: bytes) -> int:
            number = msgspec.msgpack.decode(payload, type=int)
            await asyncio.sleep(0.001 * (50 - number))
            return number

        async with a_recorder(tmp_path, {"append": slow_echo}) as path:
            client = LocalClient(path("relay"))
            assert await asyncio.gather(*(client.call("append", n, int) for n in range(50))) == list(range(50))
            client.close()

    asyncio.run(scene())


def test_a_channel_calls_only_what_the_topology_grants_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_recorder(tmp_path, {}) as path:
            client = LocalClient(path("console"))
            with pytest.raises(RefusedError, match="console may not call append") as refused:
                await client.call("append", 1)
            assert refused.value.kind == "caller.not_granted"
            client.close()

    asyncio.run(scene())


def test_an_error_crosses_by_family_and_kind(tmp_path: Path) -> None:
    async def scene() -> None:
        async def replayed(caller: str, payload: bytes) -> None:
            raise RefusedError("seen before", kind="message.replayed")

        async with a_recorder(tmp_path, {"append": replayed}) as path:
            client = LocalClient(path("relay"))
            with pytest.raises(RefusedError) as refused:
                await client.call("append", 1)
            assert refused.value.kind == "message.replayed"
            client.close()

    asyncio.run(scene())


def test_a_descriptor_goes_along_with_its_answer(tmp_path: Path) -> None:
    async def scene() -> None:
        async def body(caller: str, payload: bytes) -> Reply:
            read, write = os.pipe()
            os.write(write, payload)
            os.close(write)
            return Reply(7, read)

        async with a_recorder(tmp_path, {"open_body": body}) as path:
            client = LocalClient(path("relay"))
            results = await asyncio.gather(*(client.call_for_descriptor("open_body", f"body {n}", int) for n in range(20)))
            for n, (number, descriptor) in enumerate(results):
                assert number == 7
                assert msgspec.msgpack.decode(os.read(descriptor, 100)) == f"body {n}"
                os.close(descriptor)
            client.close()

    asyncio.run(scene())


@contextlib.contextmanager
def no_descriptor_left(free: int = 0) -> Iterator[None]:
    """This process may open `free` descriptors more, no others."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, most[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in [held.pop() for _ in range(free)]:
            os.close(descriptor)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_without_a_free_descriptor_the_neighbour_is_away_and_comes_back(tmp_path: Path) -> None:
    async def scene() -> None:
        async def answer(caller: str, payload: bytes) -> str:
            return "here"

        async with a_recorder(tmp_path, {"append": answer}) as path:
            client = LocalClient(path("relay"))
            for free in (0, 1):  # none for the socket, none for the way to it
                with no_descriptor_left(free), pytest.raises(NeighbourAwayError):
                    await client.call("append", 1, str)
            assert await client.call("append", 1, str) == "here"
            client.close()

    asyncio.run(scene())


def test_an_owner_without_a_free_descriptor_takes_its_callers_later(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_recorder(tmp_path, {}) as path:
            await asyncio.sleep(0)
            sock = socket.socket(socket.AF_UNIX)
            local_sockets.connect(sock, path("relay"))
            sock.setblocking(False)
            with no_descriptor_left():
                await asyncio.sleep(0.05)
            sock.send(frames.encode(frames.REQUEST, 1, "append", b"\xc0"))
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(sock, 1000)
            sock.close()

    asyncio.run(scene())


def test_a_descriptor_that_does_not_arrive_fails_its_own_call_only(tmp_path: Path) -> None:
    async def scene() -> None:
        listener = socket.socket(socket.AF_UNIX)
        local_sockets.bind(listener, tmp_path / "relay.sock")
        listener.listen()
        read, write = os.pipe()
        client, reader = LocalClient(tmp_path / "relay.sock"), FrameReader()
        other = asyncio.ensure_future(client.call("append", 1, str))
        await asyncio.sleep(0.05)
        owner, _ = listener.accept()
        other_call = reader.feed(owner.recv(1 << 16))[0].call

        async def body(*descriptors: int) -> tuple[int, int]:
            asked = asyncio.ensure_future(client.call_for_descriptor("open_body", 1, int))
            await asyncio.sleep(0.05)
            call = reader.feed(owner.recv(1 << 16))[0].call
            socket.send_fds(owner, [frames.encode(frames.ANSWER_WITH_DESCRIPTOR, call, "", msgspec.msgpack.encode(call))], descriptors)
            return await asked

        with no_descriptor_left(), pytest.raises(NeighbourAwayError, match="no descriptor came"):
            await body(read)  # the kernel finds no place for it
        with pytest.raises(NeighbourAwayError, match="no descriptor came"):
            await body()
        _, descriptor = await body(read)
        os.write(write, b"x")
        assert os.read(descriptor, 1) == b"x"
        owner.send(frames.encode(frames.ANSWER, other_call, "", msgspec.msgpack.encode("whole")))
        assert await other == "whole"
        client.close()
        owner.close()
        listener.close()
        for each in (descriptor, read, write):
            os.close(each)

    asyncio.run(scene())


def test_descriptors_that_no_frame_names_do_not_pile_up_at_the_owner(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_recorder(tmp_path, {}) as path:
            sock = socket.socket(socket.AF_UNIX)
            local_sockets.connect(sock, path("relay"))
            with contextlib.suppress(OSError):
                for call in range(20):
                    request = frames.encode(frames.REQUEST, call, "append", b"\xc0")
                    socket.send_fds(sock, [request], [sock.fileno()])
                    await asyncio.sleep(0.005)
            sock.settimeout(2)
            with contextlib.suppress(ConnectionError):
                while await asyncio.to_thread(sock.recv, 65536):
                    pass
            sock.close()

    asyncio.run(scene())


def test_a_caller_that_takes_no_answer_is_read_no_further_and_gets_all_of_them_later(tmp_path: Path) -> None:
    async def scene() -> None:
        asked = 0

        async def say(caller: str, payload: bytes) -> bytes:
            nonlocal asked
            asked += 1
            return bytes(100_000)

        async with a_recorder(tmp_path, {"append": say}) as path:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path("relay")))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            frame = frames.encode(frames.REQUEST, 1, "append", b"\xc0" + bytes(50_000))
            sending = asyncio.ensure_future(loop.sock_sendall(sock, frame * 400))
            await asyncio.sleep(0.5)
            at_most = (local_stream.UNREAD_BYTES_MAX + (1 << 20)) // 100_000 + local_stream.RECEIVE_BYTES // len(frame) + 2
            assert 0 < asked <= at_most, asked
            assert not sending.done()

            other = LocalClient(path("console"))  # nobody else waits for it
            assert await other.call("list_terms", None) is None
            other.close()
            reader, answers = FrameReader(), 0
            async with asyncio.timeout(10):
                while answers < 400:
                    answers += len(reader.feed(await loop.sock_recv(sock, 1 << 20)))
                await sending
            assert asked == 400
            sock.close()

    asyncio.run(scene())


def test_a_channel_has_a_bound_of_connections_and_the_next_one_waits_for_room(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_recorder(tmp_path, {}) as path:
            kept = [LocalClient(path("relay")) for _ in range(local_server.CONNECTIONS_MAX)]
            for client in kept:
                await client.call("append", None)
            late = LocalClient(path("relay"))
            waiting = asyncio.ensure_future(late.call("append", None))
            other = LocalClient(path("console"))  # a channel of its own: nobody takes its room
            for _ in range(3):
                await other.call("list_terms", None)
            assert not waiting.done()

            kept.pop().close()
            await asyncio.wait_for(waiting, 10)
            for client in (*kept, late, other):
                client.close()

    asyncio.run(scene())


def test_as_many_relays_as_the_settings_allow_have_room_on_their_channel() -> None:
    of_one_relay = 1 + 2 * transports.HANDSHAKE_THREADS  # its loop; each thread with each TLS key
    assert local_server.CONNECTIONS_MAX >= INSTANCES_MAX * of_one_relay
    assert min(one.descriptors_max for one in topology.PROCESSES) > 3 * local_server.CONNECTIONS_MAX


def test_a_bug_in_what_begins_at_once_is_met_in_the_task_and_takes_no_other_frame_along(tmp_path: Path) -> None:
    async def scene() -> None:
        begun: list[bytes] = []

        def begin(caller: str, payload: bytes) -> asyncio.Future[str] | None:
            begun.append(payload)
            if len(begun) == 1:
                raise KeyError("a bug")
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            answer.set_result("begun")
            return answer

        async def append(caller: str, payload: bytes) -> str:
            return "in a task"

        async with a_recorder(tmp_path, {"append": append}, at_once={"append": begin}) as path:
            client = LocalClient(path("relay"))
            first, second = await asyncio.gather(*(client.call("append", number, str, 5.0) for number in (1, 2)))
            assert (first, second) == ("in a task", "begun")
            client.close()

    asyncio.run(scene())


def test_names_of_operations_that_do_not_exist_are_not_kept(tmp_path: Path) -> None:
    async def scene() -> None:
        server = LocalServer("recorder", dict.fromkeys(topology.BY_NAME["recorder"].callers, _nothing))
        for number in range(100):
            await server.answer("relay", frames.Frame(frames.REQUEST, 1, f"no such operation {number}", b"\xc0"))
        await server.answer("relay", frames.Frame(frames.REQUEST, 1, "append", b"\xc0"))
        assert server.counts == {"append": 1}

    asyncio.run(scene())


async def _nothing(caller: str, payload: bytes) -> None:
    return None


def test_an_answer_that_is_too_large_is_refused_and_the_owner_goes_on(tmp_path: Path) -> None:
    async def scene() -> None:
        async def huge(caller: str, payload: bytes) -> bytes:
            return bytes(frames.FRAME_BYTES_MAX)

        read, write = os.pipe()

        async def huge_with_descriptor(caller: str, payload: bytes) -> Reply:
            return Reply(bytes(frames.FRAME_BYTES_MAX), read)

        async def small(caller: str, payload: bytes) -> str:
            return "still here"

        async with a_recorder(tmp_path, {"append": small, "audit": huge, "open_body": huge_with_descriptor}) as path:
            client = LocalClient(path("relay"))
            for operation in ("audit", "open_body"):
                with pytest.raises(PeerProtocolError) as refused:
                    await client.call(operation, 1, bytes)
                assert refused.value.kind == "frame.malformed"
            with pytest.raises(OSError):  # noqa: PT011  closed by the owner: any error of the kernel shows it
                os.fstat(read)
            with pytest.raises(FrameError):
                await client.call("append", bytes(frames.FRAME_BYTES_MAX))
            assert not client._waiting
            assert await client.call("append", 1, str) == "still here"
            client.close()
        os.close(write)

    asyncio.run(scene())


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\xa2\xf0r", b"\x91" * 100_000 + b"\xc0"], ids=["none", "no type", "no UTF-8", "deep"])
def test_a_payload_that_cannot_be_read_costs_the_call_and_not_the_owner(tmp_path: Path, payload: bytes) -> None:
    async def scene() -> None:
        async def reads(caller: str, payload: bytes) -> str:
            return str(msgspec.msgpack.decode(payload))

        async with a_recorder(tmp_path, {"append": reads}) as path:
            client = LocalClient(path("relay"))
            with pytest.raises(PeerProtocolError) as refused:
                await client.call("append", msgspec.Raw(payload), str)
            assert refused.value.kind == "frame.malformed"
            assert await client.call("append", 1, str) == "1"
            client.close()

    asyncio.run(scene())


def test_calls_fail_at_once_when_the_neighbour_dies_and_work_again_when_it_is_back(tmp_path: Path) -> None:
    async def scene() -> None:
        async def never(caller: str, payload: bytes) -> None:
            await asyncio.sleep(60)

        async def answer(caller: str, payload: bytes) -> str:
            return "back"

        client = LocalClient(tmp_path / "relay.sock")
        async with a_recorder(tmp_path, {"append": never}):
            waiting = asyncio.ensure_future(client.call("append", 1))
            await asyncio.sleep(0.05)
            client._stream._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # what the kernel does when the owner dies
            with pytest.raises(NeighbourAwayError):
                await waiting
        (tmp_path / "relay.sock").unlink()
        (tmp_path / "console.sock").unlink()
        with pytest.raises(NeighbourAwayError):
            await client.call("append", 1)
        async with a_recorder(tmp_path, {"append": answer}):
            assert await client.call("append", 1, str) == "back"
        client.close()

    asyncio.run(scene())


def test_a_large_answer_arrives_whole_and_a_blocking_client_reads_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async def large(caller: str, payload: bytes) -> bytes:
            return b"x" * 3_000_000

        async with a_recorder(tmp_path, {"list_records": large}) as path:
            client = BlockingClient(path("console"))
            found = await asyncio.to_thread(client.call, "list_records", None, bytes)
            assert found == b"x" * 3_000_000
            client.close()

    asyncio.run(scene())


def test_a_path_longer_than_the_kernel_takes_still_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()

    async def scene() -> None:
        async with a_recorder(deep, {}) as path:
            client = LocalClient(path("relay"))
            await client.call("append", 1)
            client.close()

    asyncio.run(scene())
