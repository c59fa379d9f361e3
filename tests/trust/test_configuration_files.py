"""The configuration as files: X-Road's layout, and our own memory of what was accepted."""

from __future__ import annotations

import errno
import json
from datetime import timedelta
from pathlib import Path

import pytest

from appliance import durable
from appliance.configuration_files import AcceptedStore, load_directory, write_layout
from appliance.errors import XacbeError
from appliance.trust.trusted_configuration import ConfigurationAbsentError, TrustedConfiguration
from tests.trust.centre import Directory
from tests.trust.pki import NOW, NOW_US
from tests.trust.test_trusted_configuration import ANCHOR, HOUR_US, made, parts, take
from tests.vectors import VECTORS, needs_vectors


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    configuration = take(TrustedConfiguration(ANCHOR), made())

    write_layout(tmp_path / "configuration", "QROO-TEST", [configuration])
    loaded = load_directory(tmp_path / "configuration")

    assert (loaded.instance, loaded.shared, loaded.expires_us) == (
        "QROO-TEST",
        {"QROO-TEST": configuration.shared},
        {"QROO-TEST": NOW_US + 9 * HOUR_US},
    )


def test_the_layout_is_xroads_and_readable_by_other_users(tmp_path: Path) -> None:
    write_layout(tmp_path / "configuration", "QROO-TEST", [take(TrustedConfiguration(ANCHOR), made())])

    folder = tmp_path / "configuration" / "QROO-TEST"
    metadata = json.loads((folder / "shared-params.xml.metadata").read_text())
    assert metadata == {
        "contentIdentifier": "SHARED-PARAMETERS",
        "instanceIdentifier": "QROO-TEST",
        "expirationDate": "2026-11-23T21:00:00Z",
        "contentFileName": "shared-params.xml",
        "contentLocation": made().location("SHARED-PARAMETERS"),
        "configurationVersion": "6",
    }
    assert (tmp_path / "configuration" / "instance-identifier").read_text() == "QROO-TEST"
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert oct(folder.stat().st_mode & 0o777) == "0o755"


def test_what_is_no_longer_listed_disappears(tmp_path: Path) -> None:
    root = tmp_path / "configuration"
    trusted = TrustedConfiguration(ANCHOR)
    write_layout(root, "QROO-TEST", [take(trusted, made(parts={**parts(), "ODD": b"<x/>"}))])
    assert (root / "QROO-TEST" / "ODD.xml").is_file()
    (root / "YUC").mkdir()
    (root / "YUC" / "shared-params.xml").write_text("<x/>")

    write_layout(root, "QROO-TEST", [take(trusted, made(generated="20261123120001000000000"))])

    assert not (root / "QROO-TEST" / "ODD.xml").exists()
    assert not (root / "YUC").exists()


@pytest.mark.parametrize("location", ["/V6/..", "/V6/.hidden", "/V6/a b", "/V6/", "/V6/shared-params.xml", "/V6/x.metadata"])
def test_a_part_cannot_choose_a_path(tmp_path: Path, location: str) -> None:
    class Odd(Directory):
        def location(self, identifier: str) -> str:
            return location if identifier == "ODD" else super().location(identifier)

    trusted = TrustedConfiguration(ANCHOR)
    directory = Odd(signer=made().signer, parts={**parts(), "ODD": b"<x/>"})
    needed = trusted.directory_received(directory.body(), ANCHOR.sources[0], NOW_US)
    configuration = trusted.parts_received({entry: directory.parts[entry.identifier] for entry in needed})

    with pytest.raises(XacbeError):
        write_layout(tmp_path / "configuration", "QROO-TEST", [configuration])


def test_nothing_there_is_absent(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationAbsentError):
        load_directory(tmp_path)
    (tmp_path / "instance-identifier").write_text("QROO-TEST")
    with pytest.raises(ConfigurationAbsentError):
        load_directory(tmp_path)


def test_a_directory_that_cannot_be_listed_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor left: an OSError would end the relay that follows the configuration."""

    def none_left(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "instance-identifier").write_text("QROO-TEST")
    monkeypatch.setattr(Path, "iterdir", none_left)
    with pytest.raises(ConfigurationAbsentError):
        load_directory(tmp_path)


@pytest.mark.parametrize("metadata", ["", "[]", '{"configurationVersion": "7"}', '{"expirationDate": "soon"}', "[" * 9999])
def test_broken_metadata_is_refused(tmp_path: Path, metadata: str) -> None:
    write_layout(tmp_path / "configuration", "QROO-TEST", [take(TrustedConfiguration(ANCHOR), made())])
    (tmp_path / "configuration" / "QROO-TEST" / "shared-params.xml.metadata").write_text(metadata)

    with pytest.raises(XacbeError) as refused:
        load_directory(tmp_path / "configuration")
    assert refused.value.kind == "configuration.malformed"


def test_the_accepted_configuration_survives_a_restart(tmp_path: Path) -> None:
    store = AcceptedStore(tmp_path)
    assert store.saved("QROO-TEST") is None
    trusted = TrustedConfiguration(ANCHOR)
    store.save(take(trusted, made()))
    newer = take(trusted, made(parts=parts("60"), generated="20261123120001000000000", expires=NOW + timedelta(hours=10)))
    store.save(newer)
    store.forget_unused([newer])

    saved = AcceptedStore(tmp_path).saved("QROO-TEST")

    assert saved is not None
    again = TrustedConfiguration(ANCHOR).reloaded(*saved)
    assert (again.shared, again.expires_us) == (newer.shared, newer.expires_us)
    assert len(saved[1]) == 2


def test_a_power_cut_before_the_directory_is_written_leaves_the_old_configuration(tmp_path: Path) -> None:
    store, trusted = AcceptedStore(tmp_path), TrustedConfiguration(ANCHOR)
    old = take(trusted, made())
    store.save(old)
    old_directory = (tmp_path / "directory" / "QROO-TEST").read_bytes()
    new = take(trusted, made(parts=parts("60"), generated="20261123120001000000000"))
    store.save(new)

    durable.write_file(tmp_path / "directory" / "QROO-TEST", old_directory)  # its write did not come through; the parts' did

    saved = AcceptedStore(tmp_path).saved("QROO-TEST")
    assert saved is not None
    assert TrustedConfiguration(ANCHOR).reloaded(*saved).shared == old.shared


@needs_vectors
@pytest.mark.parametrize("folder", ["globalconf-DEV-v3", "generated/conf-LAB"])
def test_xroads_own_directories_load(folder: str) -> None:
    loaded = load_directory(VECTORS / folder)

    assert (loaded.instance, list(loaded.shared), loaded.expires_us) == ("DEV", ["DEV"], {"DEV": None})
