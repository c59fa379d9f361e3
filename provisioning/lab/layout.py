"""The laboratory on paper: addresses, directories, users, settings and units of every box. Decides; starts nothing."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from appliance import topology
from appliance.net import local_sockets
from appliance.supervision import policy
from provisioning.lab.keeper import Socket, Unit

INSTANCE = "QROO-TEST"
CONFIGURATION_PORT, OCSP_PORT, TSA_PORT, BROKER_PORT, SYSTEM_PORT = 8000, 8888, 8899, 8883, 8090
SOAP_SYSTEM_PORT = 8091
BOXES_MAX = 14
"""One box for each member of the seed: 11 municipalities, SSP, FGE, CNI."""
FIRST_USER = 61200
"""Numeric users of the laboratory: no names needed, below systemd's container range."""
USERS_PER_BOX = 10
BOX_PORTS = {"client_http": 8080, "client_https": 8443, "peer": 5500, "ocsp": 5577}

ORDER = (
    ("MUN", "BENITO-JUAREZ"),
    ("EST", "SSP"),
    ("EST", "FGE"),
    ("FED", "CNI"),
    ("MUN", "SOLIDARIDAD"),
    ("MUN", "OTHON-P-BLANCO"),
    ("MUN", "COZUMEL"),
    ("MUN", "TULUM"),
    ("MUN", "ISLA-MUJERES"),
    ("MUN", "PUERTO-MORELOS"),
    ("MUN", "FELIPE-CARRILLO-PUERTO"),
    ("MUN", "JOSE-MARIA-MORELOS"),
    ("MUN", "LAZARO-CARDENAS"),
    ("MUN", "BACALAR"),
)


@dataclass(frozen=True)
class Box:
    """One box of the laboratory: number from 1, its member, address, state directory and first user."""

    number: int
    member_class: str
    member_code: str
    address: str
    state: Path
    first_user: int | None
    """None: everything runs as the user that started the laboratory."""
    instance: str = INSTANCE

    @property
    def server_id(self) -> str:
        return f"{self.instance}/{self.member_class}/{self.member_code}/SS1"

    @property
    def subsystem(self) -> str:
        return f"{self.instance}/{self.member_class}/{self.member_code}/SOLOMON"

    def user(self, process: str) -> int:
        """The numeric user of a process; 0 for the console, which is root."""
        if self.first_user is None:
            return os.getuid()
        if process == topology.CONSOLE:
            return 0
        return self.first_user + topology.USER_OFFSETS[process]


def separate_users(code: Path) -> bool:
    """Whether processes can run under users of their own: as root, with interpreter and code readable to others.

    A checkout below a closed home directory (`/root`, mode 0700) is readable to root alone; then every process runs as root, says so in
    `lab.json` (`users`), and is known by its channel only.
    """
    if os.getuid() != 0:
        return False
    places = {Path(sys.executable).resolve(), Path(sys.prefix).resolve(), code.resolve()}
    return all(os.stat(part).st_mode & stat.S_IXOTH for place in places for part in (place, *place.parents))


def boxes(directory: Path, base: str, count: int, separate: bool, instance: str = INSTANCE) -> list[Box]:
    """The first `count` boxes on addresses `<base>.11`, `<base>.12`, ..."""
    octets = [int(part) for part in base.split(".")]
    lab = (octets[1] * 256 + octets[2]) % 28
    planned = []
    for number, (member_class, member_code) in enumerate(ORDER[:count], start=1):
        user = FIRST_USER + lab * (BOXES_MAX + 1) * USERS_PER_BOX + number * USERS_PER_BOX if separate else None
        planned.append(Box(number, member_class, member_code, f"{base}.{10 + number}", directory / "boxes" / str(number), user, instance))
    return planned


def settings_text(box: Box, broker: str, signer: dict[str, str]) -> str:
    """box.toml of a laboratory box: only what differs from the defaults."""
    token = "\n".join(f'{key} = "{value}"' for key, value in signer.items())
    return f"""# Settings of a laboratory box. Every key, its meaning and its bounds: appliance/settings.py
[box]
instance = "{box.instance}"
member_class = "{box.member_class}"
member_code = "{box.member_code}"
server_code = "SS1"

[relay]
client_http = "{box.address}:8080"
client_https = "{box.address}:8443"
peer = "{box.address}:5500"
ocsp = "{box.address}:5577"

[signer]
{token}

[reporter]
broker_host = "{broker}"
broker_port = {BROKER_PORT}
"""


def box_units(box: Box, instances: int = 1) -> list[Unit]:
    """The units of a box, rendered from the topology: the same table that the image's systemd units come from."""
    units = []
    for process in topology.PROCESSES:
        sockets = [
            Socket(f"channel.{caller}", unix=str(local_sockets.channel_path(box.state, process.name, caller)), uid=box.user(caller))
            for caller in topology.channels(process.name)
        ]
        sockets += [Socket(f"tcp.{name}", tcp=f"{box.address}:{BOX_PORTS[name]}") for name in process.listens]
        for instance in range(instances if process.name == "relay" else 1):
            suffix = f".{instance}" if instance else ""
            units.append(
                Unit(
                    name=f"box{box.number}.{process.name}{suffix}",
                    argv=[sys.executable, "-I", "-m", "appliance", process.name, "--state", str(box.state)],
                    log=str(box.state / "journal" / f"{process.name}.log"),
                    uid=0 if box.first_user is None else box.user(process.name),
                    sockets=sockets,
                    held_mark=str(box.state / "run" / process.name / policy.HELD_MARK),
                    descriptors_max=process.descriptors_max,
                )
            )
    return units


def make_state(box: Box) -> None:
    """The state directory with one owner for each part, and the directories of the channels."""
    box.state.mkdir(parents=True, exist_ok=True)
    box.state.chmod(0o755)
    (box.state / "journal").mkdir(exist_ok=True)
    (box.state / "journal").chmod(0o700)  # names clients and services; the keeper opens the files for their processes
    for process in topology.PROCESSES:
        channel = box.state / "run" / process.name
        channel.mkdir(parents=True, exist_ok=True)
        (channel / policy.HELD_MARK).unlink(missing_ok=True)  # a person starts it again
        if process.writes is not None:
            owned = box.state / process.writes
            owned.mkdir(exist_ok=True)
            owned.chmod(0o755 if process.name in ("trust_agent", "supervisor") else 0o700)
            if box.first_user is not None:
                os.chown(owned, box.user(process.name), box.user(process.name))
