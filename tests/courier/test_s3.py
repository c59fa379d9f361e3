"""Archives to a real S3-compatible service (OpenStack Swift): whole or not there, gone on with after every cut."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.clock import SystemClock
from appliance.courier.errors import (
    CredentialsMissingError,
    CredentialsRefusedError,
    HostKeyWrongError,
    NameTakenError,
    PlaceMissingError,
    TargetUnreachableError,
)
from appliance.courier.s3 import S3Target
from appliance.courier.s3_client import S3Client
from appliance.courier.sigv4 import S3Key
from appliance.courier.target import Parcel
from tests.courier import swift_service
from tests.courier.loopback import LOOPBACK, BreakingLine, Certificate, certificate
from tests.courier.parcels import Cut, Dying, parcel
from tests.courier.swift_service import ACCESS, BUCKET, PART_BYTES, SECRET
from tests.depth import DEEP

pytestmark = pytest.mark.skipif(swift_service.MISSING or not DEEP, reason="OpenStack Swift takes a minute to start: make nightly")
PREFIX, REGION = "box/1/", "mx-test"


@dataclass(frozen=True)
class Service:
    port: int
    certificate: Certificate
    key: Path
    asking: S3Client

    def client(self) -> S3Client:
        """The tests' own, to look what is there."""
        return self.asking

    def target(self, *, port: int = 0, bucket: str = BUCKET, key: Path | None = None, authorities: Path | None = None) -> S3Target:
        endpoint = f"https://{LOOPBACK}:{port or self.port}"
        trusted = authorities or self.certificate.chain
        return S3Target(endpoint, bucket, PREFIX, REGION, trusted, key or self.key, SystemClock(), PART_BYTES)

    def holds(self, sent: Parcel) -> bool:
        data = b"".join(self.client().pieces(f"/{BUCKET}/{PREFIX}{sent.name}", sent.bytes))
        return hashlib.sha256(data).hexdigest() == sent.sha256

    def uploads(self) -> list[str]:
        return [one["Key"] for one in self.client().ask("GET", f"/{BUCKET}", {"uploads": ""}).elements("Upload")]


def key_file(file: Path, secret: str = SECRET) -> Path:
    file.write_text(f"{ACCESS}\n{secret}\n")
    file.chmod(0o600)
    return file


def own_client(port: int, made: Certificate) -> S3Client:
    return S3Client(f"https://{LOOPBACK}:{port}", made.chain, S3Key(ACCESS, SECRET, REGION), SystemClock())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("swift")
    made = certificate(directory)
    with swift_service.swift(directory / "service", made, getpass.getuser()) as port:
        with closing(own_client(port, made)) as asking:
            asking.ask("PUT", f"/{BUCKET}")
            yield Service(port, made, key_file(directory / "s3_key"), asking)


@pytest.mark.case("T30")
@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES - 7])
def test_an_archive_is_there_whole_and_once_in_one_piece_or_in_parts(service: Service, tmp_path: Path, size: int) -> None:
    sent = parcel(tmp_path, size, f"whole {size} ñ.zip.age")

    service.target().carry(sent)
    service.target().carry(sent)

    assert service.holds(sent)
    assert service.uploads() == []


@pytest.mark.case("T30")
def test_a_courier_that_dies_before_or_after_any_request_goes_on_where_it_was(service: Service, tmp_path: Path) -> None:
    for at in range(1, 30):
        for after in (False, True):
            sent = parcel(tmp_path, 2 * PART_BYTES + 100, f"cut-{at}-{after}.zip.age")
            first = service.target()
            try:
                first._carry(Dying(first._connected(), ("ask", "pieces"), at, after), sent)  # type: ignore[arg-type]
            except Cut:
                first.abort()
            else:
                first.abort()
                assert at == 11  # head, list, begin, parts, three parts, end, head, back: ten requests
                return
            service.target().carry(sent)
            assert service.holds(sent)
            assert service.uploads() == []
    raise AssertionError("it never came to its end")


def test_parts_that_are_there_are_not_sent_again(service: Service, tmp_path: Path) -> None:
    sent = parcel(tmp_path, 4 * PART_BYTES, "resumed.zip.age")
    first = service.target()
    with pytest.raises(Cut):
        first._carry(Dying(first._connected(), ("ask",), 8, False), sent)  # type: ignore[arg-type]  # three parts went up
    first.abort()

    second = service.target()
    counting = Dying(second._connected(), ("ask",), 0, False)
    second._carry(counting, sent)  # type: ignore[arg-type]
    second.abort()

    assert counting.done == 6  # head, list, parts, the fourth part, end, head
    assert service.holds(sent)


@pytest.mark.parametrize("share", [i / 20 for i in range(20)] if DEEP else [0.05, 0.5, 0.95])
def test_a_line_that_breaks_anywhere_is_gone_on_with(service: Service, tmp_path: Path, share: float) -> None:
    sent = parcel(tmp_path, 6 * PART_BYTES, f"broken-{share}.zip.age")
    line = BreakingLine(service.port, int(share * sent.bytes))
    with pytest.raises(TargetUnreachableError):
        service.target(port=line.port).carry(sent)
    line.close()

    service.target().carry(sent)

    assert service.holds(sent)


def test_another_object_of_that_name_is_never_written_over(service: Service, tmp_path: Path) -> None:
    sent = parcel(tmp_path, 100, "taken.zip.age")
    service.client().ask("PUT", f"/{BUCKET}/{PREFIX}{sent.name}", body=b"somebody's")

    with pytest.raises(NameTakenError):
        service.target().carry(sent)

    assert b"".join(service.client().pieces(f"/{BUCKET}/{PREFIX}{sent.name}", 100)) == b"somebody's"


def test_what_is_wrong_is_named(service: Service, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    stranger = certificate(tmp_path / "tls")
    with pytest.raises(HostKeyWrongError):
        service.target(authorities=stranger.chain).check()
    with pytest.raises(CredentialsRefusedError):
        service.target(key=key_file(tmp_path / "wrong", "not-the-secret")).check()
    with pytest.raises(CredentialsMissingError):
        service.target(key=tmp_path / "none").check()
    with pytest.raises(PlaceMissingError):
        service.target(bucket="no-such-bucket").check()
    with pytest.raises(TargetUnreachableError):
        service.target(port=1).check()
    open_to_all = key_file(tmp_path / "open")
    open_to_all.chmod(0o644)
    with pytest.raises(CredentialsRefusedError):
        service.target(key=open_to_all).check()
    service.target().check()


def test_a_payload_that_is_not_the_signed_one_is_refused_by_the_service(service: Service) -> None:
    """Proves that the judge judges: what changes on the way does not get in."""
    client = own_client(service.port, service.certificate)
    real = client._connection.request

    def changed(method: str, target: str, body: bytes, headers: dict[str, str]) -> None:
        real(method, target, body[:-1] + b"?", headers)

    client._connection.request = changed  # type: ignore[method-assign,assignment]
    with closing(client), pytest.raises(Exception, match="XAmzContentSHA256Mismatch|BadDigest"):
        client.ask("PUT", f"/{BUCKET}/changed", body=b"as it was signed")
