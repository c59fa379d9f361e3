"""An S3-compatible service as a target of archives. An object appears whole or not at all; nothing is ever written over.

Small files go in one PUT, larger ones in parts. Nothing is kept here about an upload: what the service has of it is asked, so that a
courier that was killed goes on with the next part. Each payload is digested in its signature; at the end the object is read back.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from appliance.clock import Clock
from appliance.courier.errors import (
    CredentialsMissingError,
    CredentialsRefusedError,
    DamagedOnTheWayError,
    NameTakenError,
    TargetUnreachableError,
)
from appliance.courier.s3_client import S3Answer, S3Client
from appliance.courier.sigv4 import S3Key
from appliance.courier.target import Parcel

PART_BYTES = 8 << 20
"""S3 takes 5 MiB to 5 GiB, and 10,000 of them; one is in memory."""
KEY_FILE_BYTES_MAX = 4096


class S3Target:
    """`key`: a file of two lines, access key and secret. Path-style addresses: every compatible service knows them."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        prefix: str,
        region: str,
        authorities: Path | None,
        key: Path,
        clock: Clock,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.name = f"s3 {endpoint}/{bucket}/{prefix}"
        self._endpoint, self._bucket, self._prefix, self._region = endpoint, bucket, prefix, region
        self._authorities, self._key, self._clock, self._part_bytes = authorities, key, clock, part_bytes
        self._client: S3Client | None = None

    def carry(self, parcel: Parcel) -> None:
        client = self._connected()
        try:
            self._carry(client, parcel)
        finally:
            self.abort()

    def _carry(self, client: S3Client, parcel: Parcel) -> None:
        key = self._prefix + parcel.name
        path = f"/{self._bucket}/{key}"
        # (1) it is there already: the answer was lost, or we died after the last step
        before = client.ask("HEAD", path)
        if before.status == 200:
            if _holds(client, path, before, parcel):
                return
            raise NameTakenError(f"{path} is another object")
        # (2) all of it, in one piece or in parts
        if parcel.bytes <= self._part_bytes:
            client.ask("PUT", path, body=_part(parcel, 0, parcel.bytes), headers={"content-type": "application/octet-stream"})
        else:
            self._in_parts(client, path, key, parcel)
        # (3) what lies there is what was sent
        if not _holds(client, path, client.ask("HEAD", path), parcel):
            client.ask("DELETE", path)
            raise DamagedOnTheWayError(f"{path}: read back otherwise than it was sent")

    def _in_parts(self, client: S3Client, path: str, key: str, parcel: Parcel) -> None:
        upload = self._begun(client, path, key)
        there = _parts(client, path, upload)
        lines = []
        for number, offset in enumerate(range(0, parcel.bytes, self._part_bytes), 1):
            data = _part(parcel, offset, self._part_bytes)
            tag = hashlib.md5(data, usedforsecurity=False).hexdigest()  # what S3 calls a part's ETag
            if there.get(number) != (len(data), tag):
                answer = client.ask("PUT", path, {"partNumber": str(number), "uploadId": upload}, data)
                tag = answer.headers.get("etag", "").strip('"') or tag
            lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>")
        document = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()
        ended = client.ask("POST", path, {"uploadId": upload}, document, {"content-type": "application/xml"})
        if ended.word("Code"):  # S3 says 200 before it knows
            raise TargetUnreachableError(f"{path}: {ended.word('Code')[:60]}")

    def _begun(self, client: S3Client, path: str, key: str) -> str:
        """The upload to go on with: the newest that was begun for this key, or a new one; others of the key are taken away."""
        listed = client.ask("GET", f"/{self._bucket}", {"uploads": "", "prefix": key}).elements("Upload")
        mine = sorted((one.get("Initiated", ""), one.get("UploadId", "")) for one in listed if one.get("Key") == key)
        for _, old in mine[:-1]:
            client.ask("DELETE", path, {"uploadId": old})
        if mine:
            return mine[-1][1]
        upload = client.ask("POST", path, {"uploads": ""}).word("UploadId")
        if not upload:
            raise TargetUnreachableError(f"{path}: no upload was begun")
        return upload

    def check(self) -> None:
        """One list: it needs TLS, the key, and the bucket."""
        client = self._connected()
        try:
            client.ask("GET", f"/{self._bucket}", {"uploads": "", "prefix": self._prefix, "max-uploads": "1"})
        finally:
            self.abort()

    def abort(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> S3Client:
        self._client = client = S3Client(self._endpoint, self._authorities, _read_key(self._key, self._region), self._clock)
        return client


def _read_key(file: Path, region: str) -> S3Key:
    """Raises CredentialsMissingError, CredentialsRefusedError where others may read it."""
    try:
        with file.open("rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise CredentialsRefusedError(f"others may read {file}")
            words = opened.read(KEY_FILE_BYTES_MAX).decode("ascii", "replace").split()
    except OSError as error:
        raise CredentialsMissingError(f"{file}: {error.strerror}") from None
    if len(words) != 2:
        raise CredentialsMissingError(f"{file}: not an access key and a secret")
    return S3Key(words[0], words[1], region)


def _parts(client: S3Client, path: str, upload: str) -> dict[int, tuple[int, str]]:
    """(bytes, ETag) of what the service has of an upload, by number."""
    found: dict[int, tuple[int, str]] = {}
    after = 0
    while True:
        answer = client.ask("GET", path, {"uploadId": upload, "part-number-marker": str(after)})
        try:
            listed = {int(one["PartNumber"]): (int(one["Size"]), one["ETag"].strip('"')) for one in answer.elements("Part")}
        except (KeyError, ValueError):
            raise TargetUnreachableError(f"{path}: a list of parts that is none") from None
        found |= listed
        if answer.word("IsTruncated") != "true" or not listed or max(listed) <= after:
            return found
        after = max(listed)


def _part(parcel: Parcel, offset: int, size: int) -> bytes:
    size = min(size, parcel.bytes - offset)
    data = b""
    while len(data) < size:
        piece = os.pread(parcel.descriptor, size - len(data), offset + len(data))
        if not piece:
            raise RuntimeError("the archive is shorter than its manifest says")
        data = data + piece if data else piece
    return data


def _holds(client: S3Client, path: str, head: S3Answer, parcel: Parcel) -> bool:
    if head.status != 200 or head.headers.get("content-length") != str(parcel.bytes):
        return False
    state = hashlib.sha256()
    for piece in client.pieces(path, parcel.bytes):
        state.update(piece)
    return state.hexdigest() == parcel.sha256
