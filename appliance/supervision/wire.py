"""What the other processes and the technician say to the supervisor.

Pure. Operations: `announce`, `box_status`, `local_configuration` (waits for news), `list_configuration`, `change_*`.
"""

from __future__ import annotations

import msgspec

from appliance.access.rights import Client, Right, Service
from appliance.access.roles import Account


class Announcement(msgspec.Struct, array_like=True):
    """`announce`: every process, every 5 s and on change. `waits_for`: what it misses, by name; empty when it serves."""

    process: str
    instance: int
    pid: int
    state: str
    """`serving`, `waiting`, or `resting`: the last word of a process that ends until somebody calls it."""
    waits_for: list[str]
    counters: dict[str, int]
    """By kind: refusals, errors, exchanges."""
    facts: dict[str, str]


RESTING = "resting"


class ProcessStatus(msgspec.Struct, array_like=True):
    process: str
    instance: int
    pid: int
    state: str
    """`serving`, `waiting`, `resting` or `silent`."""
    waits_for: list[str]
    age_s: float
    counters: dict[str, int]
    facts: dict[str, str]


class Horizon(msgspec.Struct, array_like=True):
    """Until when the box could exchange if `service` fell silent now, and the rule that stops it then. `silent`: it is silent already."""

    service: str
    rule: str
    ends_us: int | None
    silent: bool = False


class BoxStatus(msgspec.Struct, array_like=True):
    """`box_status`: `state` is one of `supervision.states.BoxState`; `advice`: catalogue keys of what to do, most urgent first."""

    server_id: str
    state: str
    advice: list[str]
    processes: list[ProcessStatus]
    version: str
    started_us: int
    sealing_ends_us: int | None = None
    """Until when seals can be made with the evidence at hand; None where there is none."""
    configuration_expires_us: int | None = None
    silent_services: list[str] = []
    """Trust services of which no address answers, by kind."""
    horizons: list[Horizon] = []
    """How long each service could be silent, soonest first (`health.horizons`)."""


class LocalConfiguration(msgspec.Struct, array_like=True):
    """`local_configuration` and `list_configuration`: who may use what through this box."""

    generation: int
    clients: list[Client]
    services: list[Service]
    rights: list[Right]


class LocalNews(msgspec.Struct, array_like=True):
    known: int
    wait_s: float = 10.0


class ChangeClients(msgspec.Struct, array_like=True):
    """`change_clients`: puts one client (by subsystem) or removes it."""

    client: Client
    remove: bool = False


class ChangeServices(msgspec.Struct, array_like=True):
    service: Service
    remove: bool = False
    document: bytes = b""
    """The OpenAPI document itself (JSON), fetched by the command; empty keeps the one that is stored."""


class ChangeDescription(msgspec.Struct, array_like=True):
    """`change_description`: the services of one WSDL, read by the command, put and removed at once."""

    services: list[Service]
    gone: list[Service]
    document: bytes


class ChangeRights(msgspec.Struct, array_like=True):
    right: Right
    remove: bool = False


class ChangeAccounts(msgspec.Struct, array_like=True):
    """`change_accounts`: puts one account with its roles, or removes it. `list_accounts` answers list[Account]."""

    account: Account
    remove: bool = False


class ChangeEnrolment(msgspec.Struct, array_like=True):
    """`change_enrolment`: the box has its certificates and anchor (True), or has them no longer.

    `issuers` (DER: issuing CAs first, root last) are kept in `box/issuers.pem`: what the box sends with its TLS certificates, and what
    the broker's certificate is checked against.
    """

    enrolled: bool
    issuers: list[bytes] = []
