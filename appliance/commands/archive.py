"""`xacbe archive`: archives of the message log: made now, listed, and checked anywhere by who holds an age identity."""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import msgspec

from appliance.clock import iso
from appliance.commands import archive_targets
from appliance.commands.verbs import UnreadableError, add_verb, print_json, print_table
from appliance.errors import XacbeError
from appliance.messagelog.archive import ENCRYPTED, LINKING_INFO, ArchiveBrokenError, check_archive
from appliance.messagelog.archive_wire import MadeArchive
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "archive.help"
RUN_S_MAX = 3600.0
FILE_BYTES_MAX = 2 << 30
_CONTAINER = re.compile(r"(.*)-(request|response)-([0-9a-v]{1,13})\.asice", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_verb(verbs, "run", "archive.run")
    add_verb(verbs, "list", "archive.list")
    targets = add_verb(verbs, "targets", "archive.targets")
    targets.add_argument("--check", action="store_true", help=text("archive.targets_check"))
    show = add_verb(verbs, "show", "archive.show")
    show.add_argument("file", type=Path, metavar="FILE", help=text("archive.file"))
    show.add_argument("--identity", type=Path, metavar="FILE", help=text("archive.identity"))
    verify = add_verb(verbs, "verify", "archive.verify")
    verify.add_argument("files", type=Path, nargs="+", metavar="FILE", help=text("archive.files"))
    verify.add_argument("--identity", type=Path, metavar="FILE", help=text("archive.identity"))
    verify.add_argument("--follows", default=None, metavar="DIGEST", help=text("archive.follows"))
    verify.add_argument("--extract", type=Path, default=None, metavar="DIR", help=text("archive.extract"))


def run(arguments: argparse.Namespace) -> int:
    match arguments.verb:
        case "verify":
            return _verify(arguments)
        case "show":
            return _show_file(arguments)
        case "targets":
            return archive_targets.run(arguments)
        case "run":
            return _show(arguments, _archivist(arguments, RUN_S_MAX).call("run_archive", None, list[MadeArchive]))
        case _:
            return _show(arguments, _archivist(arguments, 30.0).call("list_archives", None, list[MadeArchive]))


def _archivist(arguments: argparse.Namespace, timeout_s: float) -> BlockingClient:
    return BlockingClient(channel_path(arguments.state, "archivist", CONSOLE), timeout_s)


def _show(arguments: argparse.Namespace, found: list[MadeArchive]) -> int:
    rows = [{**msgspec.structs.asdict(one), "at": iso(one.at_us)} for one in found]
    if arguments.json:
        print_json(rows)
        return 0
    heads = [text(f"archive.head.{name}") for name in ("at", "group", "bytes", "file")]
    print_table(heads, [[iso(one.at_us), one.group or "-", str(one.bytes), one.file] for one in found], "archive.none")
    return 0


def _show_file(arguments: argparse.Namespace) -> int:
    """What one archive says of itself, and its containers with their digests made again. Exit code 1 where they do not fit."""
    data = _opened(arguments.file, arguments.identity)
    try:
        checked = check_archive(io.BytesIO(data), None)
    except ArchiveBrokenError as error:
        print(text("archive.invalid", file=str(arguments.file), detail=str(error)), file=sys.stderr)
        return 1
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        rows = [_container(archive.getinfo(name)) for name in checked.containers]
    facts = {"file": arguments.file.name, "digest": checked.digest, "follows": checked.before.digest, "follows_file": checked.before.file}
    if arguments.json:
        print_json({**facts, "containers": rows})
        return 0
    for name, value in facts.items():
        print(f"{text(f'archive.show.{name}')}: {value or '-'}")
    heads = [text(f"archive.head.{name}") for name in ("at", "direction", "record", "bytes", "message")]
    print_table(heads, [[row["at"], row["direction"], row["record"], row["bytes"], row["query_id"]] for row in rows], "archive.none")
    return 0


def _container(entry: zipfile.ZipInfo) -> dict[str, str]:
    """What the container's name says (sheet 4.9); an older archive's, named otherwise, keeps its name only."""
    named = _CONTAINER.fullmatch(entry.filename)
    query_id, direction, record = (unquote(named[1]), named[2], str(int(named[3], 32))) if named else (entry.filename, "-", "-")
    year, month, day, hour, minute, second = entry.date_time
    at = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    return {"at": at, "direction": direction, "record": record, "bytes": str(entry.file_size), "query_id": query_id, "name": entry.filename}


def _verify(arguments: argparse.Namespace) -> int:
    """In the order given: each must follow the one before it. Exit code 1 at the first that does not hold."""
    before: str | None = None if arguments.follows is None else arguments.follows.removeprefix("-")
    results: list[dict[str, str]] = []
    code = 0
    for file in arguments.files:
        try:
            data = _opened(file, arguments.identity)
            checked = check_archive(io.BytesIO(data), before)
        except ArchiveBrokenError as error:
            results.append({"file": str(file), "verdict": "invalid", "reason": error.kind, "detail": str(error)})
            code = 1
            break
        before = checked.digest
        result = {"file": str(file), "verdict": "valid", "containers": str(len(checked.containers)), "digest": checked.digest}
        results.append({**result, "follows": checked.before.digest or "-", "follows_file": checked.before.file or "-"})
        if arguments.extract is not None:
            _extract(data, arguments.extract)
    if arguments.json:
        print_json(results)
        return code
    for one in results:
        print(text(f"archive.{one['verdict']}", **one))
    return code


def _opened(file: Path, identity: Path | None) -> bytes:
    """The ZIP; an encrypted one is opened in memory. Raises UnreadableError."""
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise UnreadableError(f"{file}: {text('archive.too_large')}")
        data = file.read_bytes()
        if not file.name.endswith(ENCRYPTED):
            return data
        if identity is None:
            raise UnreadableError(f"{file}: {text('archive.needs_identity')}")
        import pyrage

        words = [line for line in identity.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-")]
        opened: bytes = pyrage.decrypt(data, [pyrage.x25519.Identity.from_str(word) for word in words])
        return opened
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{error}") from None
    except XacbeError:
        raise
    except Exception as error:  # pyrage's own: not an age file, another recipient, a bad identity
        raise UnreadableError(f"{file}: {error}") from None


def _extract(data: bytes, directory: Path) -> None:
    """Containers by the names that were checked; never over a file that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name == LINKING_INFO:
                continue
            if "/" in name or "\\" in name or name.startswith("."):
                raise UnreadableError(f"{name!r}")
            try:
                with (directory / name).open("xb") as place:
                    place.write(archive.read(name))
            except OSError as error:
                raise UnreadableError(str(error)) from None
