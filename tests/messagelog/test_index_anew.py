"""An index that is built anew gets its trees at the end, whatever ends the building before."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.messagelog.disk import OsDisk
from appliance.messagelog.groups import Written
from appliance.messagelog.index import Index
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.log_tree import LogTree
from appliance.messagelog.record import Position
from appliance.messagelog.store import Limits, Store
from appliance.messagelog.tiles import TileFiles
from tests.messagelog.drafts import StillClock, message, salts


def trees(index: Index) -> set[str]:
    return {name for (name,) in index._connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(OsDisk(tmp_path), Limits(), StillClock(), salts())
    store.open()
    store.write([message(f"Q-{number}") for number in range(20)])
    return store


@pytest.mark.case("T34")
@pytest.mark.parametrize("ended_by", ["nothing", "a full disk", "a kill"])
def test_every_tree_is_there_again(store: Store, tmp_path: Path, ended_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path / "index.sqlite")
    expected = trees(index)
    real = index.apply

    def full(records: Iterable[Written], position: Position) -> None:
        monkeypatch.setattr(index, "apply", real)
        raise sqlite3.OperationalError("database or disk is full")

    with ThreadPoolExecutor(1) as thread:
        follower = IndexFollower(store, index, LogTree(TileFiles(tmp_path / "tiles")), thread, logging.getLogger())
        if ended_by != "nothing":
            monkeypatch.setattr(index, "apply", full)
            with pytest.raises(sqlite3.OperationalError):
                follower.catch_up()
            assert trees(index) < expected
        if ended_by == "a kill":
            index.close()
            index = Index(tmp_path / "index.sqlite")
            follower = IndexFollower(store, index, LogTree(TileFiles(tmp_path / "tiles")), thread, logging.getLogger())
        follower.catch_up()

    assert trees(index) == expected
    assert not index.is_bulk
    assert index.position().sequence == store.position.sequence
    assert index.counts()[0] == 20
    index.close()
    store.close()
