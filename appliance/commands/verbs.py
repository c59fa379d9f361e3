"""What nouns with verbs share: options after the verb, names of this box, the way to the supervisor, output safe on a terminal."""

from __future__ import annotations

import argparse
import json
import ssl
from pathlib import Path
from typing import Any

import msgspec

from appliance import settings
from appliance.errors import RefusedError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.supervision.wire import LocalConfiguration
from appliance.texts import TEXTS, text
from appliance.topology import CONSOLE

FILE_BYTES_MAX = 2 << 20


class UnreadableError(RefusedError):
    """A file or address named on the command line that does not give what is expected."""

    kind = "command.unreadable"


def add_verb(verbs: Any, name: str, help_key: str) -> argparse.ArgumentParser:
    """A verb with `--json`; `--state` and `--language` may stand anywhere in the line (`appliance.commands`)."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text(help_key), description=text(help_key))
    parser.add_argument("--json", action="store_true", help=text("command.json"))
    return parser


def supervisor(arguments: argparse.Namespace) -> BlockingClient:
    return BlockingClient(channel_path(arguments.state, "supervisor", CONSOLE))


def configuration(arguments: argparse.Namespace) -> LocalConfiguration:
    """The local configuration as the supervisor holds it."""
    found: LocalConfiguration = supervisor(arguments).call("list_configuration", None, LocalConfiguration)
    return found


def full_name(arguments: argparse.Namespace, name: str, parts: int) -> str:
    """A short name completed with this box's member: `SOLOMON` is one of its subsystems, `SOLOMON/incidentes` a service of it.

    `parts`: how many the whole name has (4: subsystem, 5: service). Any other length is left for the supervisor to judge.
    """
    if name.count("/") != parts - 4:
        return name
    box = settings.load(arguments.state, settings.BoxSettings)
    return "/".join((box.instance, box.member_class, box.member_code, name))


def certificates(files: list[Path]) -> tuple[bytes, ...]:
    """The first certificate of each PEM file, or a DER file as it is. Raises UnreadableError."""
    return tuple(_certificate(file) for file in files)


def _certificate(file: Path) -> bytes:
    data = read_file(file)
    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    pem = data.decode("ascii", "replace")
    begin, end = pem.find("-----BEGIN CERTIFICATE-----"), pem.find("-----END CERTIFICATE-----")
    try:
        if not 0 <= begin < end:
            raise ValueError("no certificate in it")
        return ssl.PEM_cert_to_DER_cert(pem[begin:end] + "-----END CERTIFICATE-----")
    except ValueError as error:
        raise UnreadableError(f"{file}: {error}") from None


def read_file(file: Path) -> bytes:
    """At most FILE_BYTES_MAX. Raises UnreadableError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UnreadableError(f"{file}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise UnreadableError(f"{file}: over {FILE_BYTES_MAX} bytes")
    return data


def printable(value: object) -> str:
    """Without characters that move a terminal's cursor or turn its text around (T06)."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in str(value))


def print_json(value: object) -> None:
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def _plain(value: Any) -> Any:
    """Structs by field name (on the sockets they travel as arrays), bytes as hex."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.hex() if isinstance(value, bytes) else value


def catalogued(room: str, value: str) -> str:
    """The text for a state that another process names; one that the catalogue does not know is shown as it is."""
    key = f"{room}.{value}"
    return text(key) if key in TEXTS else printable(value)


def print_table(heads: list[str], rows: list[list[str]], empty_key: str) -> None:
    """Columns as wide as their widest cell; the last one is not filled up."""
    if not rows:
        print(text(empty_key))
        return
    cells = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads) - 1)]
    for row in cells:
        filled = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*filled, row[-1]]))


def done(arguments: argparse.Namespace, key: str, **facts: str) -> int:
    """Says what was done; 0."""
    if arguments.json:
        print_json(facts)
    else:
        print(text(key, **{name: printable(value) for name, value in facts.items()}))
    return 0
