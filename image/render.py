"""Units, users, directories and packet filter of the image, rendered from `appliance.topology`: the same table that the laboratory reads.

Pure: `tree()` gives file contents by path below the root. systemd does what the laboratory's keeper does: it holds the listening sockets,
starts every process under a user of its own and brings it back by the numbers of `supervision.policy`.
"""

from __future__ import annotations

from appliance import topology
from appliance.settings import RelaySettings
from appliance.supervision.policy import EXIT_CORRUPT, EXIT_RESTS, EXIT_SETTINGS, HELD_MARK, RestartBudget
from appliance.topology import DISPLAY, IN_IMAGE, PROCESSES, Process
from image import firewall, sandbox
from image.sandbox import STATE, user

RUN = "/run/xacbe"
"""The channels; `<state>/run` leads here, so that nothing of the last boot is left."""
FIRST_USER = 960
"""Numeric users 961 and on: below the range that Debian gives to packages' users at will, the same in every image."""
BACKLOG = 1024
RESTART_STEPS = 8
"""Restarts until the pause has grown from the first to the longest."""
READABLE = ("trust_agent", "supervisor")
"""Their directories are read by others: published configuration, issuers, service descriptions."""
PYTHON = "/usr/bin/python3 -I -B"
UNITS = "usr/lib/systemd/system"


def uid(process: str) -> int:
    """The numeric user of a process; 0 for the console, which is root."""
    return 0 if process == topology.CONSOLE else FIRST_USER + topology.USER_OFFSETS[process]


def tree() -> dict[str, str]:
    """Every rendered file of the root by its path, without a leading slash."""
    files = {
        f"{UNITS}/xacbe-held@.service": _held(),
        f"{UNITS}/xacbe-settings.service": _settings_service(),
        f"{UNITS}/xacbe-settings.path": _settings_path(),
        "usr/lib/sysusers.d/xacbe.conf": sysusers(),
        "usr/lib/tmpfiles.d/xacbe.conf": tmpfiles(),
        "usr/lib/systemd/system-preset/00-xacbe.preset": preset(),
        "usr/lib/udev/rules.d/80-xacbe.rules": udev(),
        "etc/nftables.conf": firewall.ruleset(listening(), {one.name: uid(one.name) for one in IN_IMAGE if one.internet}),
    }
    for process in IN_IMAGE:
        files[f"{UNITS}/{service_name(process)}"] = service(process)
        files |= {f"{UNITS}/{name}": text for name, text in sockets(process).items()}
    return files


def service_name(process: Process) -> str:
    return f"{user(process.name)}.service"


def service(process: Process) -> str:
    """The service unit of a process."""
    budget = RestartBudget()
    names = " ".join(sockets(process))
    lines = [
        "[Unit]",
        f"Description=Xacbe {process.name}",
        f"StartLimitIntervalSec={budget.window_s:.0f}",
        f"StartLimitBurst={budget.ends_max}",
        f"OnFailure=xacbe-held@{process.name}.service",
        *([f"Requires={names}", f"After={names}"] if names else []),
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={PYTHON} -m appliance {process.name} --state {STATE}",
        # One heap for all threads: a second one costs megabytes and gains nothing under the interpreter's lock.
        "Environment=MALLOC_ARENA_MAX=1",
        *([f"Sockets={names}"] if names else []),
        *_terminals(process),
        "Restart=always",
        # Without passing through `failed`: only a process that is given up is held.
        "RestartMode=direct",
        f"RestartSec={budget.first_after_s * 1000:.0f}ms",
        f"RestartSteps={RESTART_STEPS}",
        f"RestartMaxDelaySec={budget.after_s_max:.0f}",
        f"RestartPreventExitStatus={EXIT_SETTINGS} {EXIT_CORRUPT}{f' {EXIT_RESTS}' if process.rests else ''}",
        # No failure: its sockets listen on, and whoever connects to one starts it.
        *([f"SuccessExitStatus={EXIT_RESTS}"] if process.rests else []),
        "TimeoutStopSec=5",
        *sandbox.lines(process),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _terminals(process: Process) -> list[str]:
    """The screen comes as standard output, opened by systemd; the serial line is opened by the process (group dialout)."""
    if process is not DISPLAY:
        return []
    return ["StandardInput=tty-force", "StandardOutput=tty", "StandardError=journal", "TTYPath=/dev/tty1", "SupplementaryGroups=dialout"]


def sockets(process: Process) -> dict[str, str]:
    """One socket unit for each channel and each listener: systemd names descriptors by unit, and the channel is the caller's identity."""
    made = {}
    for caller in topology.channels(process.name) if process in PROCESSES else ():
        owner = "root" if caller == topology.CONSOLE else user(caller)
        lines = [f"ListenStream={RUN}/{process.name}/{caller}.sock", f"SocketUser={owner}", "SocketMode=0600", "RemoveOnStop=yes"]
        made[f"{user(process.name)}.{caller}.socket"] = _socket(process, f"channel.{caller}", lines)
    for name in process.listens:
        lines = [f"ListenStream={getattr(RelaySettings(), name)}", "FreeBind=yes", "NoDelay=yes"]
        made[f"{user(process.name)}.tcp-{name.replace('_', '-')}.socket"] = _socket(process, f"tcp.{name}", lines)
    return made


def _socket(process: Process, name: str, lines: list[str]) -> str:
    text = ["[Unit]", f"Description=Xacbe {process.name}: {name}", "", "[Socket]", *lines]
    return "\n".join([*text, f"FileDescriptorName={name}", f"Backlog={BACKLOG}", f"Service={service_name(process)}"]) + "\n"


def listening() -> dict[str, int]:
    """TCP ports of the box by the listener's name."""
    return {name: int(getattr(RelaySettings(), name).rpartition(":")[2]) for process in PROCESSES for name in process.listens}


def sysusers() -> str:
    lines = [f'u {user(process.name)} {uid(process.name)} "Xacbe {process.name}" / /usr/sbin/nologin' for process in IN_IMAGE]
    return "\n".join(["g dialout 20", *lines]) + "\n"


def tmpfiles() -> str:
    """The state directory, one owner for each part, and the directories of the channels."""
    lines = [f"d {STATE} 0755 root root", f"L+ {STATE}/run - - - - {RUN}", f"d {RUN} 0755 root root"]
    for process in IN_IMAGE:
        lines.append(f"d {RUN}/{process.name} 0755 root root")
        if process.writes is not None:
            mode = "0755" if process.name in READABLE else "0700"
            lines.append(f"d {STATE}/{process.writes} {mode} {user(process.name)} {user(process.name)}")
    return "\n".join(lines) + "\n"


def preset() -> str:
    """What starts; everything else that a package would like to start does not."""
    wanted = ["nftables.service", "systemd-networkd.service", "xacbe-settings.path", *(service_name(one) for one in IN_IMAGE)]
    return "\n".join([*(f"enable {name}" for name in wanted), "disable *"]) + "\n"


def udev() -> str:
    """A process's device belongs to its user. Terminals keep Debian's groups."""
    lines = []
    for process in PROCESSES:
        for device in process.devices:
            if device.startswith("/dev/"):
                lines.append(f'KERNEL=="{device.removeprefix("/dev/")}", OWNER="{user(process.name)}", MODE="0600"')
    return "\n".join(lines) + "\n"


def _held() -> str:
    """The mark by which the supervisor learns that systemd gave a process up; it goes with the boot, as everything in /run."""
    lines = [
        "[Unit]",
        "Description=Xacbe: %i is held",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart=/usr/bin/touch {RUN}/%i/{HELD_MARK}",
        *_helper(f"ReadWritePaths={RUN}"),
    ]
    return "\n".join(lines) + "\n"


def _settings_path() -> str:
    lines = ["[Unit]", "Description=Xacbe: new settings", "", "[Path]", f"PathChanged={STATE}/box.toml", "", "[Install]"]
    return "\n".join([*lines, "WantedBy=multi-user.target"]) + "\n"


def _settings_service() -> str:
    """Settings are read once at start: whoever writes new ones need not know who reads them."""
    names = " ".join(service_name(process) for process in PROCESSES)
    # A restart counts as a start: without this, many changes in a row would hold a process that never failed.
    lines = [
        "[Unit]",
        "Description=Xacbe: restart with new settings",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart=/usr/bin/systemctl reset-failed {names}",
        f"ExecStart=/usr/bin/systemctl restart {names}",
        *_helper(),
    ]
    return "\n".join(lines) + "\n"


def _helper(*more: str) -> list[str]:
    """Root without any capability: it may do what file owners may, and speak to systemd's own socket."""
    closed = ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any", "ProcSubset=pid", "PrivateDevices=yes"]
    kept = [line for line in sandbox.EVERYBODY if not line.startswith(("PrivateUsers", "ProtectSystem"))]
    return [*kept, "ProtectSystem=strict", "DevicePolicy=closed", *closed, *more]
