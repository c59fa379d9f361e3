"""Archives to a real OpenSSH server: whole or not there, gone on with after every cut, never to another server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.courier.errors import (
    CredentialsMissingError,
    CredentialsRefusedError,
    HostKeyWrongError,
    NameTakenError,
    PlaceMissingError,
    TargetUnreachableError,
)
from appliance.courier.sftp import SftpTarget
from appliance.courier.sftp_client import SftpClient
from appliance.courier.target import Parcel
from tests.courier import ssh_service
from tests.courier.loopback import LOOPBACK, BreakingLine
from tests.courier.parcels import Cut, Dying, parcel
from tests.courier.ssh_service import SshService, key_pair
from tests.depth import DEEP

pytestmark = pytest.mark.skipif(ssh_service.MISSING, reason="openssh-server is not installed")
ACTS = ("stat", "write", "sha256", "rename", "remove")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshService]:
    with ssh_service.sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def target(server: SshService, place: Path, *, port: int = 0, host_key: str = "", key: Path | None = None, user: str = "") -> SftpTarget:
    where = (LOOPBACK, port or server.port, user or server.user, str(place))
    return SftpTarget(*where, host_key or server.host_key, key or server.client_key)


def is_there(place: Path, sent: Parcel) -> bool:
    names = os.listdir(place)
    return names == [sent.name] and hashlib.sha256((place / sent.name).read_bytes()).hexdigest() == sent.sha256


@pytest.mark.case("T30")
@pytest.mark.parametrize("size", [0, 1, 32 << 10, 3_000_001])
def test_an_archive_is_there_whole_under_its_name_and_once(server: SshService, place: Path, tmp_path: Path, size: int) -> None:
    sent = parcel(tmp_path, size)

    target(server, place).carry(sent)
    target(server, place).carry(sent)

    assert is_there(place, sent)


@pytest.mark.case("T30")
def test_a_courier_that_dies_before_or_after_any_act_goes_on_where_it_was(server: SshService, place: Path, tmp_path: Path) -> None:
    cuts = 0
    for at in range(1, 20):
        for after in (False, True) if DEEP else (bool(at % 2),):
            sent = parcel(tmp_path, 100_000, f"archive-{at}-{after}.zip.age")
            first = target(server, place)
            dying = Dying(first._connected(), ACTS, at, after)
            try:
                first._carry(dying, sent)  # type: ignore[arg-type]
            except Cut:
                cuts += 1
                first.abort()
            else:
                first.abort()
                assert cuts == (12 if DEEP else 6)  # six acts
                return
            if sent.name in os.listdir(place):
                assert hashlib.sha256((place / sent.name).read_bytes()).hexdigest() == sent.sha256
            target(server, place).carry(sent)
            assert is_there(place, sent)
            os.unlink(place / sent.name)
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("share", [i / 40 for i in range(40)] if DEEP else [0.001, 0.02, 0.4, 0.8, 0.99])
def test_a_line_that_breaks_anywhere_leaves_nothing_under_the_name_and_the_rest_is_sent(
    server: SshService, place: Path, tmp_path: Path, share: float
) -> None:
    sent = parcel(tmp_path, 2_000_000)
    line = BreakingLine(server.port, int(share * sent.bytes))
    with pytest.raises(TargetUnreachableError):
        target(server, place, port=line.port).carry(sent)
    line.close()
    assert sent.name not in os.listdir(place)
    begun = sum(file.stat().st_size for file in place.iterdir())

    rest = BreakingLine(server.port, sent.bytes - begun + 200_000)  # more than the rest would be cut
    target(server, place, port=rest.port).carry(sent)
    rest.close()

    assert is_there(place, sent)


def test_what_was_damaged_at_the_target_is_sent_anew(server: SshService, place: Path, tmp_path: Path) -> None:
    sent = parcel(tmp_path)
    (place / f".{sent.name}.part").write_bytes(b"x" * 1000)  # not a beginning of it: a disk that lied

    with pytest.raises(Exception, match="read back") as refused:
        target(server, place).carry(sent)
    assert refused.value.kind == "courier.damaged_on_the_way"  # type: ignore[attr-defined]
    assert os.listdir(place) == []
    target(server, place).carry(sent)

    assert is_there(place, sent)


def test_another_file_of_that_name_is_never_written_over(server: SshService, place: Path, tmp_path: Path) -> None:
    sent = parcel(tmp_path)
    (place / sent.name).write_bytes(b"somebody's")

    with pytest.raises(NameTakenError):
        target(server, place).carry(sent)

    assert (place / sent.name).read_bytes() == b"somebody's"


@pytest.mark.rule("IV.4.I")
def test_a_server_with_another_host_key_gets_nothing(server: SshService, place: Path, tmp_path: Path) -> None:
    other = key_pair(tmp_path / "other")

    for act in (lambda found: found.check(), lambda found: found.carry(parcel(tmp_path))):
        with pytest.raises(HostKeyWrongError):
            act(target(server, place, host_key=other))

    assert os.listdir(place) == []


def test_what_is_wrong_is_named(server: SshService, place: Path, tmp_path: Path) -> None:
    key_pair(tmp_path / "stranger")
    with pytest.raises(CredentialsRefusedError):
        target(server, place, key=tmp_path / "stranger").check()
    with pytest.raises(CredentialsRefusedError):
        target(server, place, user="nobody-of-here").check()
    with pytest.raises(CredentialsMissingError):
        target(server, place, key=tmp_path / "none").check()
    with pytest.raises(PlaceMissingError):
        target(server, place / "none").check()
    with pytest.raises(TargetUnreachableError):
        target(server, place, port=1).check()
    target(server, place).check()


def test_no_secret_is_in_the_command_line(server: SshService, place: Path) -> None:
    words = " ".join(target(server, place).command("/known"))

    assert "PRIVATE" not in words
    assert all(line not in words for line in server.client_key.read_text().splitlines()[1:-1])


def test_a_server_that_speaks_something_else_is_unreachable() -> None:
    with pytest.raises(TargetUnreachableError):
        SftpClient(["/bin/echo", "HTTP/1.1 200 OK"])
