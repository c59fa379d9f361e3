"""`xacbe token`: which token the box uses, how it is, and its PIN. The PIN is typed or piped, never an argument."""

from __future__ import annotations

import argparse
import getpass
import sys

from appliance import settings
from appliance.commands.verbs import add_verb, catalogued, done, print_json, print_table, printable
from appliance.errors import RefusedError
from appliance.hsm.wire import PinRequest, TokenInit, TokenListed, TokenStatus
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "token.help"
LOGIN_S_MAX = 30.0


class PinEmptyError(RefusedError):
    """Nothing was typed: no try of the token is spent on it."""

    kind = "command.pin_empty"


class PinsDifferError(RefusedError):
    """The new PIN was not typed twice alike."""

    kind = "command.pins_differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_verb(verbs, "show", "token.show")
    add_verb(verbs, "list", "token.list")
    init = add_verb(verbs, "init", "token.init")
    init.add_argument("--yes", action="store_true", help=text("token.yes"))
    add_verb(verbs, "status", "token.status")
    add_verb(verbs, "login", "token.login")
    add_verb(verbs, "unlock", "token.login")
    add_verb(verbs, "change-pin", "token.change_pin")


def run(arguments: argparse.Namespace) -> int:
    signer = BlockingClient(channel_path(arguments.state, "signer", CONSOLE), LOGIN_S_MAX)
    match arguments.verb:
        case "show" | "status":
            return _show(arguments, signer.call("token_status", None, TokenStatus))
        case "list":
            return _list(arguments, signer.call("list_tokens", None, list[TokenListed]))
        case "init":
            return _init(arguments, signer)
        case "change-pin":
            old, new = _pin("token.pin"), _pin("token.new_pin")
            if sys.stdin.isatty() and new != _pin("token.new_pin_again"):
                raise PinsDifferError(text("token.pins_differ"))
            signer.call("change_pin", PinRequest(old, new))
            return done(arguments, "token.pin_changed")
    signer.call("unlock", PinRequest(_pin("token.pin")))
    return done(arguments, "token.logged_in")


def _list(arguments: argparse.Namespace, found: list[TokenListed]) -> int:
    if arguments.json:
        print_json(found)
        return 0
    heads = [text(f"token.head.{name}") for name in ("maker", "label", "serial", "model", "state", "chosen")]
    chosen = text("token.chosen")
    rows = [
        [one.maker, one.label, one.serial, one.model, catalogued("token_state", one.state), chosen if one.chosen else ""] for one in found
    ]
    print_table(heads, rows, "token.none")
    return 0


def _init(arguments: argparse.Namespace, signer: BlockingClient) -> int:
    """PINs are typed or piped: the SO PIN, then (attended mode) the PIN. A TPM and keys in software have none: nothing is asked."""
    of_settings = settings.load(arguments.state, settings.SignerSettings)
    so_pin = new = ""
    if of_settings.token == "pkcs11":  # noqa: S105  a kind of token, no secret
        so_pin = _pin("token.so_pin")
        if of_settings.pin_mode == "attended":
            new = _pin("token.new_pin")
            if sys.stdin.isatty() and new != _pin("token.new_pin_again"):
                raise PinsDifferError(text("token.pins_differ"))
    signer.call("init_token", TokenInit(so_pin, new, arguments.yes))
    return done(arguments, "token.initialised")


def _show(arguments: argparse.Namespace, status: TokenStatus) -> int:
    """`status` says the state and tells it by its exit code, for scripts: 0 ready, 1 not."""
    if arguments.json:
        print_json({name: getattr(status, name) for name in TokenStatus.__struct_fields__})
    else:
        tries = text("token.tries_unknown") if status.tries_left is None else str(status.tries_left)
        print(text("token.state", state=text(f"token_state.{status.state}")))
        if arguments.verb == "show":
            print(text("token.what", maker=status.maker, label=printable(status.label), serial=printable(status.serial)))
            print(text("token.work", signatures=status.signatures, queue=status.queue, tries=tries))
    return 0 if arguments.verb == "show" or status.state == "ready" else 1


def _pin(prompt_key: str) -> str:
    """From the terminal without echo, or one line of a pipe."""
    pin = getpass.getpass(text(prompt_key)) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not pin:
        raise PinEmptyError(text("token.pin_empty"))
    return pin
