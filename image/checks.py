"""Static gates on the built root: what a reviewer would look for, asked of the files that boot.

Each check returns the findings against the image, one line each; nothing found is passed. `python -m image check` runs them all.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.topology import IN_IMAGE
from image import bill, render, tools
from image.build import REPOSITORY
from image.root import ROOT_TYPE, extract, first_root, partition
from image.sandbox import CLIENTS, user
from image.testing import command_line
from image.tools import ImageError

ROOT_BYTES_MAX = 200 << 20
EXPOSURE_MAX, EXPOSURE_MAX_OF_KEYS_AND_LOG = 15, 8
"""Tenths, as `systemd-analyze security` counts: 1.5 for every process, 0.8 for the two that hold what cannot be replaced."""
CLOSEST = ("signer", "recorder")
HELPERS = ("xacbe-held@.service", "xacbe-settings.service")

UNWANTED = (
    r"(bash|dash|sh|rbash|zsh|ksh|busybox|tclsh)",
    r"(agetty|getty|login|su|sudo|sulogin|runuser|passwd|chage|newgrp|chsh|chfn)",
    r"(ssh|sshd|scp|telnet|ftp|wget|curl|nc|netcat|socat|gdb|strace|perl.*|gcc|ld|make)",
    r"(apt.*|dpkg.*|pip.*|rpm|snap|flatpak)",
)
"""Programs that no box has: something to type into, to log in with, to fetch or to build with."""
COMMAND_LINE_HAS = (
    "systemd.import_credentials=no",
    "systemd.getty_auto=no",
    "rd.shell=0",
    "lockdown=integrity",
    "panic=10",
    "oops=panic",
)
LISTENERS_OF_OTHERS = frozenset({"ListenNetlink", "ListenDatagram", "ListenFIFO", "ListenSequentialPacket", "ListenSpecial"})


def units_are_sound(root: Path, out: Path) -> list[str]:
    """`systemd-analyze verify` has not a word to say."""
    units = [*(render.service_name(one) for one in IN_IMAGE), "xacbe-held@signer.service", "xacbe-settings.service", "xacbe-settings.path"]
    words = ["systemd-analyze", "verify", "--man=no", f"--root={root}", *units, "multi-user.target", "emergency.target", "rescue.target"]
    said = tools.inside(["sh", "-c", 'SYSTEMD_COLORS=0 "$@" 2>&1; true', "sh", *words], root)
    return said.splitlines()


def units_are_confined(root: Path, out: Path) -> list[str]:
    """`systemd-analyze security --offline` below the limits."""
    found = []
    for process in IN_IMAGE:
        limit = EXPOSURE_MAX_OF_KEYS_AND_LOG if process.name in CLOSEST else EXPOSURE_MAX
        found += _exposed(root, render.service_name(process), limit)
    for name in HELPERS:
        found += _exposed(root, name, EXPOSURE_MAX)
    return found


def exposure(root: Path, unit: str) -> float:
    """The overall figure of one unit, 0 (confined) to 10."""
    said = _analyze("security", "--offline=yes", f"--root={root}", "--threshold=100", "--no-pager", unit, root=root)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    if found is None:
        raise ImageError(f"{unit}: no figure in {said[-300:]}")
    return float(found.group(1))


def _exposed(root: Path, unit: str, limit: int) -> list[str]:
    figure = exposure(root, unit)
    return [f"{unit}: exposure {figure}, at most {limit / 10}"] if figure * 10 > limit else []


def _analyze(*words: str, root: Path) -> str:
    return tools.inside(["env", "SYSTEMD_COLORS=0", "systemd-analyze", *words], root)


def no_program_changes_its_user(root: Path, out: Path) -> list[str]:
    """No setuid, no setgid, no file capability."""
    found = []
    for file in _files(root):
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(f"{file.relative_to(root)}: setuid or setgid")
        if stat.S_ISREG(mode) and "security.capability" in os.listxattr(file, follow_symlinks=False):
            found.append(f"{file.relative_to(root)}: file capabilities")
    return found


def nothing_is_for_everybody_to_write(root: Path, out: Path) -> list[str]:
    """World-writable files and directories; links, devices and sticky /tmp places aside."""
    found = []
    for file in _files(root):
        mode = file.lstat().st_mode
        open_to_all = mode & stat.S_IWOTH and not stat.S_ISLNK(mode) and not stat.S_ISCHR(mode)
        if open_to_all and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            found.append(f"{file.relative_to(root)}: world-writable")
    return found


def nobody_can_log_in_or_install(root: Path, out: Path) -> list[str]:
    """No shell, getty, ssh server, package manager or compiler; an ssh client for the courier alone; no account with a password."""
    found = [f"{file.relative_to(root)}: no box has it" for file in _unwanted(root) if file.name not in CLIENTS]
    units = root / "usr/lib/systemd/system"
    for name, owner in CLIENTS.items():
        others = [render.service_name(one) for one in IN_IMAGE if one.name != owner]
        line = f"InaccessiblePaths=/usr/bin/{name}"
        found += [f"{unit}: reaches {name}" for unit in others if line not in (units / unit).read_text().splitlines()]
    for line in (root / "etc/shadow").read_text().splitlines():
        name, secret = line.split(":")[:2]
        if secret and not secret.startswith(("!", "*")):
            found.append(f"etc/shadow: {name} has a password")
    names = ("*getty*", "ssh*", "debug-shell*", "apt-*", "dpkg-*")
    return found + [f"{unit.name}: no box has it" for name in names for unit in units.glob(name)]


def _unwanted(root: Path) -> list[Path]:
    """Anything by such a name that can be run, wherever it lies."""
    pattern = re.compile("|".join(UNWANTED))
    named = [file for file in _files(root) if pattern.fullmatch(file.name) and (file.is_symlink() or not file.is_dir())]
    return [file for file in named if file.is_symlink() or file.stat().st_mode & 0o111]


def the_first_root_is_as_closed(root: Path, out: Path) -> list[str]:
    """The initrd: nothing to type into or to log in with, no program that changes its user."""
    first = first_root(out)
    found = [f"{file.relative_to(first)}: no box has it" for file in _unwanted(first)]
    return [f"initrd: {said}" for said in found + no_program_changes_its_user(first, out)]


def it_recovers_by_itself(root: Path, out: Path) -> list[str]:
    """Emergency and rescue restart the machine, in both roots, and pid 1 feeds the watchdog."""
    found = []
    for place in (root, first_root(out)):
        for name in ("emergency", "rescue"):
            file = place / f"usr/lib/systemd/system/{name}.service.d/reboot.conf"
            if not file.exists() or "\nExecStart=\nExecStart=/usr/bin/systemctl reboot --force\n" not in file.read_text():
                found.append(f"{file.relative_to(out)}: does not restart")
    if not re.search(r"^RuntimeWatchdogSec=\d", (root / "usr/lib/systemd/system.conf.d/10-xacbe.conf").read_text(), re.MULTILINE):
        found.append("nobody feeds the watchdog")
    return found


def only_the_topology_s_ports_are_open(root: Path, out: Path) -> list[str]:
    """Socket units that listen on an address, and the packet filter: both say what the topology says."""
    wanted, found = set(render.listening().values()), []
    opened: set[int] = set()
    for unit in (root / "usr/lib/systemd/system").glob("*.socket"):
        for key, value in re.findall(r"^(Listen\w+)=(.+)$", unit.read_text(), re.MULTILINE):
            if key in LISTENERS_OF_OTHERS or value.startswith(("/", "@", "%", "vsock:")):
                continue
            opened.add(int(value.rpartition(":")[2]))
    if opened != wanted:
        found.append(f"socket units open {sorted(opened)}, the topology {sorted(wanted)}")
    rules = (root / "etc/nftables.conf").read_text()
    let_in = {int(port) for port in re.findall(r"tcp dport (\d+) accept", rules)}
    if let_in != wanted or rules.count("policy drop") != 3:
        found.append(f"the packet filter lets in {sorted(let_in)}")
    return found


def the_command_line_is_locked(root: Path, out: Path) -> list[str]:
    words = command_line(out / "xacbe.efi").split()
    return [f"kernel command line: no {wanted}" for wanted in COMMAND_LINE_HAS if wanted not in words]


def no_secret_and_no_bench_part_is_in_it(root: Path, out: Path) -> list[str]:
    """No private key, no keys in software, nothing of tests, of the centre or of the machine that built it."""
    found = [
        f"{name}: not in the image"
        for name in ("appliance/hsm/software.py", "provisioning", "tests", "image")
        if (root / "usr/lib/xacbe" / name).exists()
    ]
    for file in _files(root):
        if file.is_symlink() or not file.is_file() or file.suffix in (".ko", ".xz"):
            continue
        if re.search(rb"-----BEGIN (EC |RSA |ENCRYPTED )?PRIVATE KEY-----\n[A-Za-z0-9+/]{40}", file.read_bytes()):
            found.append(f"{file.relative_to(root)}: a private key")
    return found


def every_process_has_its_user(root: Path, out: Path) -> list[str]:
    accounts = {line.split(":")[0]: line.split(":") for line in (root / "etc/passwd").read_text().splitlines()}
    found = [f"{user(one.name)}: no such user" for one in IN_IMAGE if user(one.name) not in accounts]
    shells = {name: fields[6] for name, fields in accounts.items() if name.startswith("xacbe-")}
    return found + [f"{name}: shell {shell}" for name, shell in shells.items() if shell != "/usr/sbin/nologin"]


def everything_in_it_is_named(root: Path, out: Path) -> list[str]:
    return bill.problems(out, REPOSITORY)


def the_root_is_small(root: Path, out: Path) -> list[str]:
    size = partition(out, ROOT_TYPE)["raw_size"]
    return [f"root of {size} bytes, at most {ROOT_BYTES_MAX}"] if size > ROOT_BYTES_MAX else []


CHECKS: tuple[Callable[[Path, Path], list[str]], ...] = (
    units_are_sound,
    units_are_confined,
    no_program_changes_its_user,
    nothing_is_for_everybody_to_write,
    nobody_can_log_in_or_install,
    the_first_root_is_as_closed,
    it_recovers_by_itself,
    only_the_topology_s_ports_are_open,
    the_command_line_is_locked,
    no_secret_and_no_bench_part_is_in_it,
    every_process_has_its_user,
    everything_in_it_is_named,
    the_root_is_small,
)


def check(out: Path) -> dict[str, list[str]]:
    """Findings by check."""
    root = extract(out)
    return {one.__name__: one(root, out) for one in CHECKS}


def figures(out: Path) -> dict[str, object]:
    """What a reader compares: exposure of every unit, size of the root."""
    root = extract(out)
    units = [*(render.service_name(one) for one in IN_IMAGE), *HELPERS]
    return {
        "exposure": {unit: exposure(root, unit) for unit in units},
        "root_bytes": partition(out, ROOT_TYPE)["raw_size"],
        "root_hash": json.loads((out / "image.json").read_text())["root_hash"],
    }


def _files(root: Path) -> Iterator[Path]:
    for place, directories, names in os.walk(root):
        for name in (*directories, *names):
            yield Path(place) / name
