"""Data keys in files below `keys/`, and the token that wraps them.

    tags.key                     the tag key, wrapped by the token
    <epoch>.epoch                an epoch's keys, wrapped by the token
    <epoch>-<number>.key         a group key, wrapped by its epoch's: deleting it erases what it sealed (`sealing`)

The token is asked once at start and once a day to wrap, and once for each older epoch that somebody reads. While it is away nothing is
written in clear: the recorder starts, repairs, audits, lists nothing by name, and refuses messages by name (LogKeyAbsentError). Once it
has its keys it needs the token no more until the next start, day, or reading of old records.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections import Counter, OrderedDict
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from appliance import durable
from appliance.clock import Clock
from appliance.errors import RefusedError, UnavailableError, UnverifiedError, XacbeError
from appliance.hsm.wire import WrapRequest
from appliance.journal import event
from appliance.messagelog.groups import LogFullError
from appliance.messagelog.sealing import EPOCH_BYTES, GROUPS_MAX, KEY_BYTES, Epoch, GroupKey, Names, epoch_of
from appliance.messagelog.sealing import tag as tag_of

DIRECTORY = "keys"
TAGS = "tags.key"
EPOCH_S = 24 * 3600.0
"""A retention term ends with its epoch: a day is the unit in which content is erased."""
RETRY_S = 0.5
"""As often as the signer looks for its token."""
TOKEN_S_MAX = 15.0
"""The signer's own deadline is 10 s."""
FIRST_TRY_S_MAX = 3.0
"""How long the first messages after a start wait for the token: a signer is back within 3 s."""
EPOCHS_KEPT_MAX = 512
"""Opened epochs in memory, a few hundred bytes each: more than a year of days."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LogKeyAbsentError(UnavailableError):
    """The token has not wrapped or unwrapped the log's keys: nothing is written in clear, so nothing is written."""

    kind = "log.key_absent"


class ContentErasedError(RefusedError):
    """The content was erased when its term ended; its digests and the archive have it."""

    kind = "log.content_erased"


class Token(Protocol):
    """The signer, as `net.local_sockets.LocalClient` asks it."""

    async def call(self, operation: str, request: object, answer: type[bytes], timeout_s: float) -> Any: ...


class DataKeys:
    """The keys of one log. `run` fetches them; until then `sealing_with` refuses."""

    def __init__(self, root: Path, token: Token, clock: Clock, executor: Executor, log: logging.Logger) -> None:
        self._directory, self._token, self._clock, self._executor, self._log = root / DIRECTORY, token, clock, executor, log
        durable.make_directory(self._directory)
        self._epochs: OrderedDict[int, Epoch] = OrderedDict()
        self._current: Epoch | None = None
        self._kept_epoch = b""
        """The wrapped keys of the current epoch, until its first group key is written: an epoch that seals nothing leaves no file."""
        self._since_s = 0.0
        self._tags: bytes | None = None
        self._sealing: Counter[int] = Counter()
        """Messages on their way under each group key: sealed or about to be, and not yet noted by the index."""
        self._tried = asyncio.Event()
        self._making = asyncio.Lock()

    @property
    def ready(self) -> bool:
        return self._current is not None

    # -- fetching

    async def run(self) -> None:
        """Until SyncFailedError: the keys at start, a new epoch each day. A token that is away then leaves yesterday's in force."""
        told = ""
        while True:
            if self._current is None or self._clock.monotonic_s() - self._since_s >= EPOCH_S:
                try:
                    await self._begin()
                    told = ""
                except durable.SyncFailedError:
                    raise
                except XacbeError as error:
                    if error.kind != told:
                        event(self._log, logging.WARNING, "log.keys_awaited", kind=error.kind, reason=str(error))
                    told = error.kind
                finally:
                    self._tried.set()
            await asyncio.sleep(RETRY_S)

    async def _begin(self) -> None:
        if self._tags is None:
            self._tags = await self._tag_key()
        number = 1 + max((int(name.split("-")[0].split(".")[0]) for name in self._names()), default=0)
        if self._current is not None:  # it may get its files while the token wraps: its number, and they, are not for the next one
            number = max(number, self._current.number + 1)
        keys = os.urandom(EPOCH_BYTES)
        self._kept_epoch = await self._wrap(keys, f"epoch {number}")
        self._current, self._since_s = Epoch(number, keys), self._clock.monotonic_s()
        self._epochs[number] = self._current

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self._directory) if name[:1].isdecimal()]

    async def _tag_key(self) -> bytes:
        """Of another token it cannot be had any more: then a new one, and older records are found by time and subsystem only."""
        file = self._directory / TAGS
        with suppress(FileNotFoundError):
            try:
                return await self._unwrap(file.read_bytes(), "tags")
            except UnverifiedError as error:
                event(self._log, logging.ERROR, "log.tags_lost", kind=error.kind, reason=str(error))
                file.rename(file.with_name(f"{TAGS}.of-another-token"))
        key = os.urandom(KEY_BYTES)
        await self._write(file, await self._wrap(key, "tags"))
        return key

    async def _wrap(self, data: bytes, purpose: str) -> bytes:
        wrapped: bytes = await self._token.call("wrap", WrapRequest(data, _context(purpose)), bytes, TOKEN_S_MAX)
        return wrapped

    async def _unwrap(self, blob: bytes, purpose: str) -> bytes:
        data: bytes = await self._token.call("unwrap", WrapRequest(blob, _context(purpose)), bytes, TOKEN_S_MAX)
        return data

    async def _write(self, file: Path, data: bytes) -> None:
        """Durable before anything is sealed with it. Raises LogFullError, SyncFailedError."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, durable.write_file, file, data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise LogFullError("no room for a data key") from None

    # -- writing

    def at_hand(self, group: str) -> tuple[Epoch, GroupKey] | None:
        """What `sealing_with` gives, where nothing need be waited for; else None, and nothing is counted."""
        epoch = self._current
        key = None if epoch is None else epoch.groups.get(group)
        if epoch is None or key is None:
            return None
        self._sealing[key.number] += 1
        return epoch, key

    async def sealing_with(self, group: str) -> tuple[Epoch, GroupKey]:
        """What seals a message of this subsystem now; its key is not erased before `sealed` was called, once.

        Raises LogKeyAbsentError, LogFullError, SyncFailedError.
        """
        held = self.at_hand(group)
        if held is not None:
            return held
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_TRY_S_MAX)
        async with self._making:
            epoch = self._current
            if epoch is None:
                raise LogKeyAbsentError("the log's keys wait for the token")
            key = epoch.groups.get(group)
            if key is None:
                return epoch, await self._make(epoch, group)
            self._sealing[key.number] += 1
            return epoch, key

    def sealed(self, key: GroupKey) -> None:
        """The message is a record that the index was told of, or never will be one."""
        self._sealing[key.number] -= 1
        if not self._sealing[key.number]:
            del self._sealing[key.number]

    async def _make(self, epoch: Epoch, group: str) -> GroupKey:
        if epoch.made >= GROUPS_MAX:
            raise LogFullError("more subsystems than a box has")
        if not epoch.kept:
            await self._write(self._directory / f"{epoch.number:010d}.epoch", self._kept_epoch)
            epoch.kept = True
        number = epoch.number * GROUPS_MAX + epoch.made
        epoch.made += 1  # also where the write fails: a number is a nonce, and none comes twice
        kept = epoch.wrapped(number, group, os.urandom(KEY_BYTES))
        self._sealing[number] += 1  # before its file is there: the day may end while it is written
        try:
            await self._write(self._file(number), kept)
        except BaseException:
            del self._sealing[number]
            raise
        key = epoch.groups[group] = epoch.unwrapped(number, kept)
        return key

    def tag(self, kind: bytes, text: str) -> bytes:
        """What the index knows `text` by. Raises LogKeyAbsentError."""
        if self._tags is None:
            raise LogKeyAbsentError("the log's keys wait for the token")
        return tag_of(self._tags, kind, text)

    def derived(self, purpose: bytes) -> bytes:
        """A key of 256 bits for something else that lies beside the log. Raises LogKeyAbsentError.

        From the tag key, which the token wraps: it lasts as long as that does, and costs the token nothing more.
        """
        if self._tags is None:
            raise LogKeyAbsentError("the log's keys wait for the token")
        return hashlib.blake2b(purpose, key=self._tags, digest_size=KEY_BYTES, person=b"derived").digest()

    # -- reading

    async def epoch(self, number: int) -> Epoch:
        """Asks the token the first time. Raises LogKeyAbsentError, ContentErasedError where the epoch is gone."""
        found = self._epochs.get(number)
        if found is not None:
            return found
        try:
            blob = (self._directory / f"{number:010d}.epoch").read_bytes()
        except FileNotFoundError:
            raise ContentErasedError(f"the keys of epoch {number} were erased") from None
        try:
            found = Epoch(number, await self._unwrap(blob, f"epoch {number}"))
        except UnavailableError as error:
            raise LogKeyAbsentError(f"the token does not unwrap: {error}") from None
        self._epochs[number] = found
        if len(self._epochs) > EPOCHS_KEPT_MAX:
            self._epochs.popitem(last=False)
        return found

    async def names(self, key: int, sealed: bytes) -> Names | None:
        """A record's names under this key's epoch; None where another token wrapped it, or it is gone. Raises LogKeyAbsentError."""
        try:
            return (await self.epoch(epoch_of(key))).open_names(sealed)
        except (UnverifiedError, RefusedError):
            return None

    async def group_key(self, number: int) -> GroupKey:
        """Raises LogKeyAbsentError, ContentErasedError, SealBrokenError."""
        epoch = await self.epoch(epoch_of(number))
        for known in epoch.groups.values():
            if known.number == number:
                return known
        try:
            return epoch.unwrapped(number, self._file(number).read_bytes())
        except FileNotFoundError:
            raise ContentErasedError("the content was erased when its term ended") from None

    # -- erasing

    def erase(self, number: int) -> None:
        """The content sealed under this key is gone for ever afterwards. Nothing where it is gone already. Raises SyncFailedError."""
        self._file(number).unlink(missing_ok=True)
        durable.sync_directory(self._directory)

    def group_keys(self) -> list[int]:
        """Numbers of the group keys that are kept."""
        found = [name[: -len(".key")].split("-") for name in self._names() if name.endswith(".key")]
        return [int(epoch) * GROUPS_MAX + int(place) for epoch, place in found]

    def erasable(self) -> list[int]:
        """Group keys that no message will be sealed under any more: of another day, and with nothing on its way. In the loop; what was
        sealed under them was noted for the index before."""
        current = None if self._current is None else self._current.number
        return [number for number in self.group_keys() if epoch_of(number) != current and number not in self._sealing]

    def _file(self, number: int) -> Path:
        return self._directory / f"{epoch_of(number):010d}-{number % GROUPS_MAX:05d}.key"


def _context(purpose: str) -> bytes:
    """Binds a wrapped key to its use: no file can stand in for another."""
    return hashlib.sha256(f"xacbe message log 1: {purpose}".encode()).digest()
