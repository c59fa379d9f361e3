"""An SFTP server as a target of archives: `.<name>.part` grows, is read back, and only then gets its name.

The server's host key is pinned in the settings; authentication is by key only. `ssh` gets nothing from anybody's configuration.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from appliance.courier.errors import CredentialsMissingError, DamagedOnTheWayError, NameTakenError, PlaceMissingError
from appliance.courier.sftp_client import SftpClient
from appliance.courier.target import Parcel

SSH = "/usr/bin/ssh"
ALIAS = "archive"
"""The name under which the pinned key stands: an address that changes changes nothing."""
CONNECT_S_MAX = 15
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    f"HostKeyAlias={ALIAS}",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "PreferredAuthentications=publickey",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "ControlPath=none",
    "ProxyCommand=none",
    f"ConnectTimeout={CONNECT_S_MAX}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
)


class SftpTarget:
    """`host_key`: `ssh-ed25519 AAAA...`; `key`: file of the private key, whose path alone is in argv. One session is kept at most."""

    def __init__(self, host: str, port: int, user: str, directory: str, host_key: str, key: Path) -> None:
        self.name = f"sftp {user}@{host}:{port}{directory}"
        self._host, self._port, self._user, self._directory = host, port, user, directory.rstrip("/")
        self._host_key, self._key = host_key, key
        self._client: SftpClient | None = None

    def carry(self, parcel: Parcel) -> None:
        client = self._connected()
        try:
            self._carry(client, parcel)
        finally:
            self.abort()

    def _carry(self, client: SftpClient, parcel: Parcel) -> None:
        place, passing = f"{self._directory}/{parcel.name}", f"{self._directory}/.{parcel.name}.part"
        # (1) it is there already: the answer was lost, or we died after the last step
        if (found := client.stat(place)) is not None:
            if found.size == parcel.bytes and client.sha256(place, parcel.bytes) == parcel.sha256:
                return
            raise NameTakenError(f"{place} is another file")
        # (2) what an earlier try left is gone on with; its beginning is judged with the rest in (3)
        before = client.stat(passing)
        begun = before.size if before is not None and before.size is not None and before.size <= parcel.bytes else 0
        client.write(passing, parcel.descriptor, begun, parcel.bytes)
        # (3) what lies there is what was sent; else it goes, and the next try begins anew
        after = client.stat(passing)
        if after is None or after.size != parcel.bytes or client.sha256(passing, parcel.bytes) != parcel.sha256:
            client.remove(passing)
            raise DamagedOnTheWayError(f"{place}: read back otherwise than it was sent")
        # (4) only now the name
        client.rename(passing, place)

    def check(self) -> None:
        client = self._connected()
        try:
            found = client.stat(self._directory or "/")
        finally:
            self.abort()
        if found is None or not found.is_directory:
            raise PlaceMissingError(f"no directory {self._directory}")

    def abort(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> SftpClient:
        if not os.access(self._key, os.R_OK):
            raise CredentialsMissingError(f"no key at {self._key}")
        with tempfile.NamedTemporaryFile("w", prefix="known-hosts-") as known:  # read once, before the first answer
            known.write(f"{ALIAS} {self._host_key}\n")
            known.flush()
            self._client = client = SftpClient(self.command(known.name))
            return client

    def command(self, known_hosts: str) -> list[str]:
        options = [*OPTIONS, f"UserKnownHostsFile={known_hosts}", f"IdentityFile={self._key}", f"HostKeyAlgorithms={self._algorithms()}"]
        words = [word for option in options for word in ("-o", option)]
        return [SSH, "-F", "none", "-T", *words, "-p", str(self._port), "-l", self._user, "-s", "--", self._host, "sftp"]

    def _algorithms(self) -> str:
        """Of the pinned key only: another key of the same server would look like another server."""
        kind = self._host_key.split()[0]
        return "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
