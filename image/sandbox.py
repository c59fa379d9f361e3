"""The sandbox of one process, from its line in the topology: what it may reach, in systemd's words.

Pure. Everything is closed first; the topology opens the network, a directory, a device. `image/checks.py` scores the result.
"""

from __future__ import annotations

from appliance.topology import Process

STATE = "/var/lib/xacbe"
MEMORY_FACTOR = 2
"""MemoryMax is this times the topology's figure: that is what the process holds itself; the cgroup counts pages of read files too."""
CLIENTS = {"ssh": "courier"}
"""Programs that one process needs to reach others; for the others they are not there. (File groups do not survive the root's building.)"""
TASKS_MAX = 64
"""Threads of one process: the relay's handshakes and the loops' own; the largest count seen is 20."""

EVERYBODY = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=disconnected",
    "PrivateMounts=yes",
    "PrivateUsers=yes",
    "PrivateIPC=yes",
    "ProtectHostname=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "UMask=0077",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources @obsolete @setuid @keyring",
    "SystemCallErrorNumber=EPERM",
    "NoExecPaths=/",
    "ExecPaths=/usr",
    "LimitCORE=0",
    "OOMPolicy=stop",
)
"""For every process of the box, and for the small helpers beside them."""


def user(process: str) -> str:
    """The process's own user and group."""
    return f"xacbe-{process.replace('_', '-')}"


def lines(process: Process) -> list[str]:
    """The `[Service]` lines that confine the process."""
    made = [f"User={user(process.name)}", f"Group={user(process.name)}", *EVERYBODY, *_network(process), *_devices(process)]
    made += [f"InaccessiblePaths=/usr/bin/{name}" for name, owner in CLIENTS.items() if owner != process.name]
    if process.writes is not None:
        made.append(f"ReadWritePaths={STATE}/{process.writes}")
    made += [f"MemoryMax={process.memory_mib_max * MEMORY_FACTOR}M", "MemorySwapMax=0", f"TasksMax={TASKS_MAX}"]
    made.append(f"LimitNOFILE={process.descriptors_max}")
    return made


def _network(process: Process) -> list[str]:
    """Without the right to the network not even loopback is there. netfilter narrows the others further, by user."""
    if process.internet:
        return ["RestrictAddressFamilies=AF_UNIX AF_INET", "ProcSubset=all"]
    families = "AF_UNIX AF_NETLINK" if process.looks_around else "AF_UNIX"
    closed = ["IPAddressDeny=any", f"RestrictAddressFamilies={families}"]
    # In a network of its own it would see no address of the box to show.
    return [*closed, "ProcSubset=all"] if process.looks_around else [*closed, "PrivateNetwork=yes", "ProcSubset=pid"]


def _devices(process: Process) -> list[str]:
    files = [device for device in process.devices if device.startswith("/dev/")]
    if not files:
        return ["PrivateDevices=yes", "DevicePolicy=closed"]
    # What speaks to a token holds a PIN: it may keep its memory from being swapped.
    memory = [] if process.looks_around else ["LimitMEMLOCK=infinity"]
    return ["DevicePolicy=closed", *(f"DeviceAllow={device} rw" for device in files), *memory]
