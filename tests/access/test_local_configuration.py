"""The local configuration on a disk that tears: every commit leaves something readable, and says when it is the older one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access import durable_storage
from appliance.access.durable_storage import LocalCorruptError
from appliance.access.local_configuration import LocalConfigurationStore, LocalFullError
from appliance.access.rights import HTTP, Client, Right, Service

SUBSYSTEM = "QROO/MUN/BENITO-JUAREZ/SOLOMON"


def opened(directory: Path) -> LocalConfigurationStore:
    return LocalConfigurationStore(directory, "QROO")


def put(store: LocalConfigurationStore, *names: str) -> None:
    for name in names:
        store.commit(store.plan_client(Client(f"QROO/MUN/BENITO-JUAREZ/{name}", HTTP), remove=False))


def names(store: LocalConfigurationStore) -> list[str]:
    return [client.subsystem.rpartition("/")[2] for client in store.clients]


def test_what_was_committed_is_read_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, "A")
    store.commit(store.plan_service(Service("QROO/MUN/BENITO-JUAREZ/A/s", "http://x/"), remove=False))
    store.commit(store.plan_right(Right("QROO/MUN/BENITO-JUAREZ/A/s", "GROUP:todos", "get", "/a"), remove=False))
    store.commit(store.plan_enrolment(True))

    again = opened(tmp_path)

    assert (again.clients, again.services, again.rights) == (store.clients, store.services, store.rights)
    assert (again.generation, again.enrolled, again.fell_back) == (4, True, False)


def test_a_change_that_changes_nothing_makes_no_generation(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, "A", "A")
    assert store.generation == 1


def test_torn_anywhere_the_previous_generation_is_in_force_and_it_is_said(tmp_path: Path) -> None:
    store = opened(tmp_path / "good")
    put(store, "A", "B")
    whole = (tmp_path / "good" / "local.json").read_bytes()
    assert all(durable_storage.decode(whole[:cut]) is None for cut in range(len(whole)))
    for cut in [*range(0, len(whole), 23), len(whole) - 1]:  # each opening syncs the disk: every position is decoded, some are opened
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "good", torn)
        (torn / "local.json").write_bytes(whole[:cut])
        again = opened(torn)
        assert (names(again), again.fell_back) == (["A"], True), cut
        assert again.generation > store.generation, "a number that a reader may know is never used for other content"
        put(again, "C")
        assert names(opened(torn)) == ["A", "C"]
        shutil.rmtree(torn)


@pytest.mark.parametrize("position", [0, 5, 13, 15, 20, 60, 79, 80, 90, -1])
def test_one_flipped_bit_is_noticed(tmp_path: Path, position: int) -> None:
    put(opened(tmp_path), "A", "B")
    file = tmp_path / "local.json"
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    again = opened(tmp_path)
    assert (names(again), again.fell_back) == (["A"], True)


def test_a_lost_current_file_falls_back_and_two_bad_ones_stop(tmp_path: Path) -> None:
    put(opened(tmp_path), "A", "B")
    (tmp_path / "local.json").unlink()
    assert names(opened(tmp_path)) == ["A"]
    (tmp_path / "local.json").write_bytes(b"")
    (tmp_path / "local.json.previous").write_bytes(b"x")
    with pytest.raises(LocalCorruptError):
        opened(tmp_path)


def test_the_very_first_write_has_a_previous_generation_too(tmp_path: Path) -> None:
    put(opened(tmp_path), "A")
    (tmp_path / "local.json").write_bytes(b"torn")
    assert names(opened(tmp_path)) == []


def test_a_change_that_would_be_too_large_is_not_made(tmp_path: Path) -> None:
    store = opened(tmp_path)
    certificate = b"\x30\x82\x1f\x00" + bytes(0x1F00)

    def fill() -> None:
        for number in range(100):
            client = Client(f"QROO/MUN/BENITO-JUAREZ/S{number}", HTTP, (certificate,) * 10)
            store.commit(store.plan_client(client, remove=False))

    with pytest.raises(LocalFullError):
        fill()
    assert names(store) == names(opened(tmp_path))
    assert 10 < len(names(store)) < 60


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_nothing_or_to_themselves(data: bytes) -> None:
    found = durable_storage.decode(data)
    assert found is None or durable_storage.encode(*found) == data


@given(st.integers(0, 10**17), st.binary(max_size=50))
def test_what_is_encoded_is_decoded(generation: int, content: bytes) -> None:
    assert durable_storage.decode(durable_storage.encode(generation, content)) == (generation, content)
