"""What the ports for information systems answer beside messages: `/listClients`, `/asic`, `/verificationconf` (sheet 2.1, 2.7, 2.8).

The documents of `/asic` are the log's own bytes, read by the recorder for their owner alone (`messagelog.own_reading`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import string
import uuid
import zipfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs

from appliance import configuration_files
from appliance.access import catalogue
from appliance.errors import CorruptStateError, PeerProtocolError
from appliance.exchange import signed_documents
from appliance.exchange.client_side import Arrival
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Trust
from appliance.exchange.signed_documents import ASICE_TYPE, NONCE_CHARACTERS, ZIP_TYPE, Wanted
from appliance.messagelog import containers
from appliance.messagelog.wire import FindOwn, ReadOwn, RecordContent, RecordSummary
from appliance.model.identifiers import ClientId
from appliance.net import faults
from appliance.net.connection import ServerConnection
from appliance.net.faults import Fault
from appliance.net.http1 import RequestHead
from appliance.net.local_client import LocalClient
from appliance.relay.gates import BusyError, Gates
from appliance.relay.local_answer import LocalAnswer, Pipe
from appliance.relay.refusals import Refusals
from appliance.relay.trust_view import CONFIGURATION_DIRECTORY

DOWNLOADS_MAX = 2
"""At once: a message below `containers.STREAMED_BYTES_MIN` lies three times in memory, 24 MiB of the relay's 200."""
TURN_S_MAX = 15.0
"""How long a download waits for its turn."""
FORCE_S_MAX = 10.0
"""How long `force` waits for stamps; the log asks for one half a second after the message (`messagelog/README.md`)."""
READ_S_MAX = 20.0
_ALPHABET = string.ascii_letters + string.digits
_PLAIN = (b"Content-Type", b"text/plain;charset=utf-8")

Act = Callable[[ServerConnection, RequestHead, LocalAnswer, dict[str, str]], Awaitable[None]]


class ListRequestError(PeerProtocolError):
    """listClients takes one xRoadInstance, or none."""

    kind = "metadata.request"


class LocalServices:
    """Answers them. Invariant: a document leaves only for the client that proved itself as for a message, and is then in the audit log."""

    def __init__(
        self,
        state: Path,
        trust: Trust,
        recorder: LocalClient,
        check_client: Callable[[ClientId, Arrival, LocalView], None],
        local: Callable[[], LocalView],
        refusals: Refusals,
        gates: Gates,
    ) -> None:
        self._configuration = state / CONFIGURATION_DIRECTORY
        self._trust, self._recorder, self._check_client, self._local = trust, recorder, check_client, local
        self._refusals, self._gates = refusals, gates
        self._turns = asyncio.Semaphore(DOWNLOADS_MAX)
        self._acts: dict[bytes, Act] = {
            b"/listClients": self._list_clients,
            b"/asic": self._signed_documents,
            b"/verificationconf": self._verification_configuration,
        }

    def takes(self, head: RequestHead) -> bool:
        """Everything else is a message (sheet 2.1)."""
        return head.method == b"GET" and _path(head) in self._acts

    async def serve(self, connection: ServerConnection, head: RequestHead) -> bool:
        """Answers; False where the connection cannot be used again."""
        address = connection.peer.address
        answer, facts = LocalAnswer(connection, head), {"from": address, "service": _path(head).decode()}
        passage = None
        try:
            passage = await self._gates.arrive(address)
            passage.complete()
            await self._acts[_path(head)](connection, head, answer, facts)
            await connection.drain()
            return answer.keep
        except CorruptStateError:
            raise
        except Exception as error:  # a bug of ours costs this connection, never the others' (net/README.md)
            fault = await self._refusals.fault(error, faults.CLIENT_SIDE, str(uuid.uuid4()), facts)
            if answer.begun:
                connection.abort()  # a stream that ends without its end is seen to be cut off
                return False
            _refuse(head, answer, fault)
            await connection.drain()
            return answer.keep
        finally:
            if passage is not None:
                passage.leave()

    async def _list_clients(self, connection: ServerConnection, head: RequestHead, answer: LocalAnswer, facts: dict[str, str]) -> None:
        """Every member and subsystem of an instance, by name; open to whoever reaches the port, as in X-Road."""
        try:
            given = parse_qs(_query(head), keep_blank_values=True, errors="strict", max_num_fields=16).get("xRoadInstance", [])
        except ValueError:
            raise ListRequestError("the parameters cannot be read") from None
        if len(given) > 1:
            raise ListRequestError("xRoadInstance is there twice")
        shared = self._trust.shared(given[0] if given else None)
        accepted = [one.partition(b";")[0].strip().lower() for value in _values(head, b"accept") for one in value.split(b",")]
        if b"application/json" in accepted:
            answer.give(
                200, [(b"Content-Type", b"application/json; charset=utf-8")], catalogue.client_list_json(shared.members, shared.instance)
            )
        else:
            answer.give(200, [(b"Content-Type", b"text/xml; charset=UTF-8")], catalogue.client_list_xml(shared.members, shared.instance))

    async def _signed_documents(self, connection: ServerConnection, head: RequestHead, answer: LocalAnswer, facts: dict[str, str]) -> None:
        wanted = signed_documents.parse(_query(head))
        arrival = Arrival(connection.peer.tls, connection.peer.certificate)
        facts["client"] = str(wanted.client)  # not the id: audit records are not encrypted
        self._check_client(wanted.client, arrival, self._local())
        async with _Turn(self._turns):
            subsystem = str(wanted.client)
            wait_s = FORCE_S_MAX if wanted.force else 0.0
            question = FindOwn(subsystem, wanted.query_id, wanted.direction, wait_s)
            found: list[RecordSummary] = await self._recorder.call("find_own", question, list[RecordSummary], timeout_s=READ_S_MAX + wait_s)
            signed_documents.check_found(wanted, found)
            self._check_client(wanted.client, arrival, self._local())
            reads = [
                ReadOwn(one.sequence, subsystem, wanted.query_id, connection.peer.address, arrival.certificate or b"") for one in found
            ]
            await self._send_documents(wanted, found, reads, answer)

    async def _send_documents(self, wanted: Wanted, found: list[RecordSummary], reads: list[ReadOwn], answer: LocalAnswer) -> None:
        """The first one is read before the answer begins: what cannot be read at all is still told with a status."""
        loop = asyncio.get_running_loop()
        content, descriptor = await self._read(reads[0])
        with Pipe(answer) as pipe:
            if wanted.unique:
                answer.open([(b"Content-Type", ASICE_TYPE), _named(wanted.document_name(found[0].direction, _nonce()))])
                await loop.run_in_executor(None, _write_alone, pipe, content, descriptor)
            else:
                answer.open([(b"Content-Type", ZIP_TYPE), _named(wanted.archive_name)])
                archive = zipfile.ZipFile(cast(BinaryIO, pipe), "w", zipfile.ZIP_STORED)
                for at, one in enumerate(found):
                    if at:
                        content, descriptor = await self._read(reads[at])
                    name = wanted.document_name(one.direction, _nonce())
                    await loop.run_in_executor(None, _write_entry, archive, name, content, descriptor)
                await loop.run_in_executor(None, _finish, archive, pipe)
        await answer.close()

    async def _read(self, wanted: ReadOwn) -> tuple[RecordContent, int]:
        content: RecordContent
        content, descriptor = await self._recorder.call_for_descriptor("read_own", wanted, RecordContent, READ_S_MAX)
        return content, descriptor

    async def _verification_configuration(
        self, connection: ServerConnection, head: RequestHead, answer: LocalAnswer, facts: dict[str, str]
    ) -> None:
        """Open to whoever reaches the port, as in X-Road: it is public within the network, and without it no document can be judged."""
        async with _Turn(self._turns):
            loop = asyncio.get_running_loop()
            files = configuration_files.verification_files(self._configuration)
            first = await loop.run_in_executor(None, next, files)
            answer.open([(b"Content-Type", ZIP_TYPE), _named("verificationconf.zip")])
            with Pipe(answer) as pipe:
                await loop.run_in_executor(None, _write_files, pipe, first, files)
            await answer.close()


class _Turn:
    """One of DOWNLOADS_MAX, first come first served. Raises BusyError."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(TURN_S_MAX):
                await self._turns.acquire()
        except TimeoutError:
            raise BusyError("too many downloads", retry_after_s=TURN_S_MAX) from None

    async def __aexit__(self, *_: object) -> None:
        self._turns.release()


def _write_alone(pipe: Pipe, content: RecordContent, descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as body:
        containers.write_to(cast(BinaryIO, pipe), content, body.fileno())
    pipe.push()


def _write_entry(archive: zipfile.ZipFile, name: str, content: RecordContent, descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as body, archive.open(name, "w", force_zip64=content.body_bytes >= zipfile.ZIP64_LIMIT >> 1) as entry:
        containers.write_to(cast(BinaryIO, entry), content, body.fileno())


def _finish(archive: zipfile.ZipFile, pipe: Pipe) -> None:
    archive.close()
    pipe.push()


def _write_files(pipe: Pipe, first: tuple[str, bytes], others: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(cast(BinaryIO, pipe), "w", zipfile.ZIP_DEFLATED) as archive:
        for files in ((first,), others):
            for name, content in files:
                archive.writestr(f"verificationconf/{name}", content)
    pipe.push()


def _refuse(head: RequestHead, answer: LocalAnswer, fault: Fault) -> None:
    """Plain text for documents, X-Road's error for listClients."""
    if _path(head) == b"/listClients":
        headers, body = faults.rest_error(fault, _values(head, b"accept"))
        answer.give(fault.status, headers, body)
        return
    retry = [] if fault.retry_after_s is None else [(b"Retry-After", b"%d" % max(1, round(fault.retry_after_s)))]
    answer.give(signed_documents.status_of(fault.kind), [_PLAIN, *retry], fault.message.encode())


def _named(name: str) -> tuple[bytes, bytes]:
    return b"Content-Disposition", f'attachment; filename="{name}"'.encode()


def _nonce() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(NONCE_CHARACTERS))


def _path(head: RequestHead) -> bytes:
    return head.target.partition(b"?")[0]


def _query(head: RequestHead) -> str:
    return head.target.partition(b"?")[2].decode("latin-1")


def _values(head: RequestHead, wanted: bytes) -> list[bytes]:
    return [value for name, value in head.headers if name.lower() == wanted]
