"""What builds and boots the image: packages of this machine, and a Debian 13 tree of tools that is entered by bubblewrap.

The tree lies outside the repository, in `~/.cache/xacbe-image`, and is made once. The Debian mirror is that of this machine's apt.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xacbe-image"
TREE = CACHE / "tools"
RELEASE = "trixie"
HOST_PACKAGES = ("mmdebstrap", "bubblewrap", "debian-archive-keyring", "qemu-system-x86", "qemu-utils", "ovmf", "swtpm", "swtpm-tools")
"""Of the build machine (Debian 12): QEMU, firmware and swtpm run there, everything else in the tree."""
TREE_PACKAGES = (
    "mkosi apt dpkg debian-archive-keyring ca-certificates systemd udev systemd-boot systemd-boot-efi systemd-ukify systemd-repart "
    "systemd-cryptsetup erofs-utils dosfstools mtools e2fsprogs cryptsetup-bin sbsigntool openssl kmod zstd cpio bubblewrap nftables "
    "python3-cryptography python3-pefile python3-virt-firmware "
    # for the one Python part without a wheel
    "python3-pip python3-dev python3-setuptools python3-setuptools-scm python3-wheel python3-cffi python3-pkgconfig python3-asn1crypto "
    "python3-packaging python3-pycparser gcc libc6-dev pkg-config libtss2-dev libtss2-tcti-device0t64"
).split()
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-trixie-automatic.gpg",
    "/usr/share/keyrings/debian-archive-trixie-security-automatic.gpg",
    "/usr/share/keyrings/debian-archive-trixie-stable.gpg",
)
AWAY = re.compile(
    r"Failed to fetch|Could not (connect|resolve)|Temporary failure|Unable to connect|timed out|Connection (refused|reset)|"
    r"Max retries|Network is unreachable|NewConnectionError|No space left|Operation not permitted",
    re.IGNORECASE,
)
"""Words for what is the machine's and not the image's: a mirror that does not answer, a full disk, a right that root has not in here."""
_NICE = ["nice", "-n", "5"]


class ImageError(Exception):
    """A step of the build or of a check failed; the message is for the person who started it."""


class NotHereError(ImageError):
    """This machine cannot do it: no mirror answers, no name spaces, no room. Says nothing about the image."""


def run(argv: Sequence[str | Path], *, log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Runs a program at low priority; its output goes to `log`, or is returned. Raises ImageError with the last lines.

    In a session of its own: mkosi asks for the terminal, and is stopped for ever where it runs in the background of one.
    """
    command = [*_NICE, *map(str, argv)]
    whole = None if env is None else {**os.environ, **env}
    if log is None:
        done = subprocess.run(command, text=True, capture_output=True, env=whole, cwd=cwd, check=False, start_new_session=True)
        said = done.stdout + done.stderr
    else:
        with log.open("wb") as file:
            done = subprocess.run(  # type: ignore[assignment]
                command, stdout=file, stderr=subprocess.STDOUT, env=whole, cwd=cwd, check=False, start_new_session=True
            )
        said = log.read_text(errors="replace")
    if done.returncode != 0:
        raise ImageError(f"{argv[0]} ended with {done.returncode}:\n{_tail(said)}")
    return done.stdout if log is None else said


def _tail(said: str) -> str:
    return "\n".join(said.splitlines()[-25:])


def prepare_host() -> None:
    """Installs what this machine misses; a ready machine is left alone. Needs root."""
    missing = [name for name in HOST_PACKAGES if not _installed(name)]
    if missing:
        print("apt-get install", *missing, file=sys.stderr)
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env={"DEBIAN_FRONTEND": "noninteractive"})


def _installed(package: str) -> bool:
    done = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True, check=False)
    return "ok installed" in done.stdout


def sources() -> list[str]:
    """apt's lines for Debian 13, from the mirrors that this machine's apt has for its own release. Raises ImageError."""
    found = mirrors(_apt_lists())
    signed = ",".join(keyring for keyring in KEYRINGS if Path(keyring).exists())
    if not signed:
        raise ImageError("no keyring of Debian 13: debian-archive-keyring is too old")
    lines = [f"deb [signed-by={signed}] {found['main']} {suite} main" for suite in (RELEASE, f"{RELEASE}-updates")]
    if "security" in found:
        lines.append(f"deb [signed-by={signed}] {found['security']} {RELEASE}-security main")
    return lines


def _apt_lists() -> str:
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    return "\n\n".join(place.read_text() for place in places if place.is_file())


def mirrors(lists: str) -> dict[str, str]:
    """`main` and, where there is one, `security`: addresses from one-line and deb822 sources."""
    entries = [(uri, suite) for uri, suite in re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", lists, re.MULTILINE)]
    for block in re.split(r"\n\s*\n", lists):
        fields = dict(re.findall(r"^(URIs|Suites):\s*(.+)$", block, re.MULTILINE))
        entries += [(uri, suite) for uri in fields.get("URIs", "").split() for suite in fields.get("Suites", "").split()]
    found: dict[str, str] = {}
    for uri, suite in entries:
        kind = "security" if suite.endswith("-security") else "main"
        if re.search(r"/debian(-security)?/?$", uri):
            found.setdefault(kind, uri)
    if "main" not in found:
        raise ImageError("no Debian mirror in this machine's apt configuration")
    return found


def prepare_tree() -> Path:
    """The tree of tools, made anew when its list of packages changed. Returns its path."""
    mark = TREE.with_name("tools.made")
    wanted = hashlib.sha256(" ".join([*TREE_PACKAGES, *sources()]).encode()).hexdigest()
    if TREE.is_dir() and mark.exists() and mark.read_text() == wanted:
        return TREE
    CACHE.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    shutil.rmtree(TREE, ignore_errors=True)
    thin = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    run(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            '--aptopt=APT::Install-Recommends "false"',
            *thin,
            f"--include={','.join(TREE_PACKAGES)}",
            RELEASE,
            TREE,
            *sources(),
        ],
        log=CACHE / "tools.log",
    )
    mark.write_text(wanted)
    return TREE


def inside(argv: Sequence[str | Path], *binds: Path, env: Mapping[str, str] | None = None) -> str:
    """Runs a program of the tree, without network; `binds` are seen and written at their own paths. Returns its output."""
    command: list[str | Path] = ["bwrap", "--bind", TREE, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108  its own
    for place in binds:
        command += ["--bind", place, place]
    for name, value in (env or {}).items():
        command += ["--setenv", name, value]
    return run([*command, "--unshare-all", "--die-with-parent", *argv])


def deb822(lines: list[str]) -> str:
    """The same sources in apt's newer form, with the keyring as the tree has it: mkosi takes a file `mkosi.sources` for its own."""
    entries = [re.fullmatch(r"deb \[signed-by=\S+\] (\S+) (\S+) main", line) for line in lines]
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    return "\n".join(
        f"Types: deb\nURIs: {entry[1]}\nSuites: {entry[2]}\nComponents: main\nSigned-By: {keyring}\n" for entry in entries if entry
    )
