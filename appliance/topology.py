"""Who runs, who may call whom, who writes where: one static table, rendered and tested everywhere.

Pure. The laboratory's keeper, the systemd units, the local sockets' checks and the documentation all read it. A channel is a local
socket `run/<owner>/<caller>.sock` that belongs to the caller's user alone: the channel says who is calling, never the request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CONSOLE = "console"
"""Not a process: the technician's commands (`xacbe`), as root or in the console's group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One trust context. `calls` of others are granted by operation: `callers["sign_seal"] == ("relay",)`."""

    name: str
    user_offset: int
    writes: str | None = None
    """The one directory below the state directory that this process owns."""
    internet: bool = False
    """May it open AF_INET sockets at all."""
    looks_around: bool = False
    """Sees the box's addresses and memory, without a way into the network."""
    devices: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    """TCP listeners by name; the parent opens them, the settings give address and port."""
    rests: bool = False
    """Ends itself while it has nothing to do; its sockets stay open, and a call or new settings start it again (`processes.resting`)."""
    callers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    memory_mib_max: int = 64
    descriptors_max: int = 1024


_EVERY = ("supervisor", "signer", "relay", "recorder", "trust_agent", "reporter")

PROCESSES: tuple[Process, ...] = (
    Process(
        name="supervisor",
        user_offset=1,
        writes="box",
        callers={
            "announce": (*_EVERY, "archivist", "courier"),
            "box_status": (CONSOLE, "reporter", "display"),
            "local_configuration": ("relay",),
            "change_clients": (CONSOLE,),
            "change_services": (CONSOLE,),
            "change_description": (CONSOLE,),
            "change_rights": (CONSOLE,),
            "list_configuration": (CONSOLE,),
            "list_accounts": ("recorder", CONSOLE),
            "change_accounts": (CONSOLE,),
            "change_enrolment": (CONSOLE,),
        },
        memory_mib_max=48,
    ),
    Process(
        name="signer",
        user_offset=2,
        writes="keys",
        devices=("/dev/tpmrm0", "usb-hsm"),
        callers={
            "sign_seal": ("relay",),
            "sign_handshake": ("relay", "reporter"),
            "list_keys": ("relay", "trust_agent", "reporter", CONSOLE),
            "token_status": ("supervisor", "reporter", CONSOLE),
            "generate_key": (CONSOLE,),
            "request_certificate": (CONSOLE,),
            "import_certificate": (CONSOLE,),
            "delete_key": (CONSOLE,),
            "renew_key": (CONSOLE,),
            "switch_key": (CONSOLE,),
            "sign_checkpoint": ("recorder",),
            "wrap": ("recorder",),
            "unwrap": ("recorder",),
            "advance_counter": ("recorder",),
            "read_counter": ("recorder", CONSOLE),
            "list_tokens": (CONSOLE,),
            "init_token": (CONSOLE,),
            "tpm_identity": (CONSOLE,),
            "activate_credential": (CONSOLE,),
            "quote": (CONSOLE, "reporter"),
            "certify_key": (CONSOLE,),
            "unlock": (CONSOLE,),
            "change_pin": (CONSOLE,),
        },
        memory_mib_max=64,
    ),
    Process(
        name="recorder",
        user_offset=3,
        writes="log",
        callers={
            "open_body": ("relay",),
            "drop_body": ("relay",),
            "append": ("relay",),
            "audit": _EVERY,
            "list_records": (CONSOLE,),
            "list_audits": (CONSOLE,),
            "read_record": (CONSOLE,),
            "find_own": ("relay",),
            "read_own": ("relay",),
            "prove_record": (CONSOLE,),
            "report_exchanges": (CONSOLE,),
            "archive_groups": ("archivist",),
            "list_archivable": ("archivist",),
            "read_archivable": ("archivist",),
            "archive_unreadable": ("archivist",),
            "confirm_archive": ("archivist",),
            "list_terms": (CONSOLE,),
            "change_term": (CONSOLE,),
            "erase_due": (CONSOLE,),
            "log_status": (CONSOLE, "reporter", "supervisor"),
            "due_notices": ("relay",),
            "notices_told": ("relay",),
            "take_notices": ("relay",),
            "list_notices": (CONSOLE,),
            "take_operations": ("relay",),
            "query_operations": ("relay",),
            "operations_health": ("relay",),
            "list_operations": (CONSOLE,),
        },
        memory_mib_max=96,
        descriptors_max=4096,
    ),
    Process(
        name="trust_agent",
        user_offset=4,
        writes="trust",
        internet=True,
        callers={
            "view": ("relay", "recorder", "supervisor"),
            "own_evidence": ("relay",),
            "stamp": ("recorder",),
            "trust_status": (CONSOLE, "reporter", "supervisor"),
            "install_anchor": (CONSOLE,),
        },
        memory_mib_max=96,
    ),
    Process(
        name="relay",
        user_offset=5,
        internet=True,
        listens=("client_http", "client_https", "peer", "ocsp"),
        callers={},
        memory_mib_max=200,
        descriptors_max=20480,  # four listeners of 4096 connections each, and what the relay itself opens towards others
    ),
    Process(
        name="reporter",
        user_offset=6,
        writes="outbox",
        internet=True,
        callers={"incident": (*_EVERY, "archivist")},
        memory_mib_max=64,
    ),
    Process(
        name="archivist",
        user_offset=8,
        writes="archive",
        rests=True,
        callers={
            "wake": ("supervisor",),
            "run_archive": (CONSOLE,),
            "list_archives": (CONSOLE,),
            "next_cargo": ("courier",),
            "open_cargo": ("courier",),
            "cargo_arrived": ("courier",),
        },
        memory_mib_max=160,  # a message of 8 MiB whole in its container; larger bodies are streamed
    ),
    Process(
        name="courier",
        user_offset=9,
        internet=True,
        rests=True,
        callers={"wake": ("supervisor",), "list_targets": (CONSOLE,), "check_targets": (CONSOLE,)},
        memory_mib_max=64,  # a part of 8 MiB, and OpenSSH's client beside it
    ),
)

DISPLAY = Process(
    name="display",
    user_offset=7,
    looks_around=True,
    devices=("/dev/tty1", "/dev/ttyS0"),
    memory_mib_max=48,
)
"""Shows the box's state on its own screen and serial line; a laboratory box has neither."""

BY_NAME = {process.name: process for process in PROCESSES}
RESTING = frozenset(process.name for process in PROCESSES if process.rests)
IN_IMAGE = (*PROCESSES, DISPLAY)
USER_OFFSETS = {process.name: process.user_offset for process in IN_IMAGE}


def channels(owner: str) -> tuple[str, ...]:
    """The callers that have a socket of their own at this process, in a fixed order."""
    callers = BY_NAME[owner].callers.values()
    return tuple(sorted({caller for granted in callers for caller in granted if caller != owner}))


def may_call(caller: str, owner: str, operation: str) -> bool:
    """Whether the table grants the operation; an operation that is not listed is granted to nobody."""
    return caller in BY_NAME[owner].callers.get(operation, ())
