"""Settings of this box: one frozen section per process out of one TOML file, read once at start.

A process is handed its own section and the box's name, nothing else. Unknown key, missing key, wrong type, value out of range: an error
with the key's path. Secrets are never here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from appliance.errors import SettingsError

PRODUCTION_INSTANCE = "QROO"
_ADDRESS = re.compile(r"[A-Za-z0-9.-]{1,255}:[0-9]{1,5}")


def _within(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{path}: must be {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSettings:
    """Which box this is. Every process reads this section besides its own.

    All four names are empty where there is no settings file yet (`NOBODY`): a box that nobody provisioned starts all the same.
    """

    instance: str
    member_class: str
    member_code: str
    server_code: str
    language: str = "es"

    def __post_init__(self) -> None:
        if self.language not in ("es", "en"):
            raise SettingsError("box.language: must be es or en")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """The listeners' addresses and every bound of the exchange."""

    client_http: str = "0.0.0.0:8080"
    client_https: str = "0.0.0.0:8443"
    peer: str = "0.0.0.0:5500"
    ocsp: str = "0.0.0.0:5577"
    health: str = ""
    """`HOST:PORT` of the plain health endpoint for load balancers; empty: none."""
    peer_port: int = 5500
    """Port of other boxes: X-Road's configuration has addresses without ports (sheet 3.1)."""
    ocsp_port: int = 5577
    instances: int = 1
    body_bytes_max: int = 1 << 30
    body_inline_bytes_max: int = 64 << 10
    """Up to here a body travels inside local frames; a larger one goes to a file of the log."""
    head_bytes_max: int = 64 << 10
    head_s_max: int = 10
    """Slowest complete request head; then the connection is cut (T42)."""
    body_stall_s_max: int = 30
    connections_max: int = 4096
    connections_per_address_max: int = 1024
    handshakes_max: int = 64
    handshake_s_max: int = 10
    peer_idle_s_max: int = 60
    peer_connect_s_max: int = 5
    system_idle_s_max: int = 4
    """A kept connection to an information system is closed after this: before the 5 s after which common servers close it themselves, so
    that no request goes out on a connection that is just being closed."""
    exchanges_max: int = 1024
    """In flight at once; one more is refused (`relay.busy`)."""
    answer_s_max: int = 90
    foreign_servers: str = ""
    """Servers that speak X-Road's TLS profile (`exchange.foreign`): `INSTANCE/CLASS/CODE/SERVER` between spaces, `*`: any; empty: none."""
    fault_spelling: str = "7.8"
    system_ca_file: str = ""

    def __post_init__(self) -> None:
        if self.health and not (_ADDRESS.fullmatch(self.health) and int(self.health.rpartition(":")[2]) < 1 << 16):
            raise SettingsError("relay.health: must be HOST:PORT")
        for name in ("peer_port", "ocsp_port"):
            _within(f"relay.{name}", getattr(self, name), 1, 65_535)
        for name in ("head_s_max", "body_stall_s_max", "handshake_s_max", "peer_idle_s_max", "peer_connect_s_max"):
            _within(f"relay.{name}", getattr(self, name), 1, 3600)  # an hour is for ever to whoever waits
        for name in ("connections_max", "connections_per_address_max", "handshakes_max"):
            _within(f"relay.{name}", getattr(self, name), 1, 65_536)  # descriptors of a process
        _within("relay.body_bytes_max", self.body_bytes_max, 1024, 1 << 40)
        _within("relay.instances", self.instances, 1, 16)
        _within("relay.body_inline_bytes_max", self.body_inline_bytes_max, 1024, 1 << 20)
        _within("relay.head_bytes_max", self.head_bytes_max, 1024, 1 << 20)
        _within("relay.system_idle_s_max", self.system_idle_s_max, 1, 3600)
        _within("relay.answer_s_max", self.answer_s_max, 1, 3600)
        _within("relay.exchanges_max", self.exchanges_max, 1, 65536)
        if self.fault_spelling not in ("7.8", "7.7"):
            raise SettingsError("relay.fault_spelling: must be 7.8 or 7.7")


_MODULE_CONFIGURATION = re.compile(r"[A-Z0-9_]{1,60}CONF=/[^\0]{1,4000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSettings:
    """Which token, and how its PIN arrives."""

    token: str = "pkcs11"  # noqa: S105  a kind of token, no secret
    """`pkcs11`, `tpm2` or `software` (bench only, refused in the production instance)."""
    module: str = ""
    """Path of the PKCS#11 module."""
    module_address: str = ""
    """For p11-kit's client module: the address of its server, `unix:path=...`."""
    module_configuration: str = ""
    """`NAME=PATH`: where a maker's module reads its own settings, `YUBIHSM_PKCS11_CONF=/etc/yubihsm.conf`, `OPENSC_CONF=...`."""
    token_label: str = ""
    token_serial: str = ""
    tcti: str = "device:/dev/tpmrm0"
    pin_mode: str = "unattended"
    queue_max: int = 1024
    """Requests that wait for the token, of each urgency (handshakes, seals, acts); one more is refused at once."""
    sign_s_max: float = 10.0

    def __post_init__(self) -> None:
        if self.token not in ("pkcs11", "tpm2", "software"):
            raise SettingsError("signer.token: must be pkcs11, tpm2 or software")
        _within("signer.queue_max", self.queue_max, 1, 65_536)
        _within("signer.sign_s_max", self.sign_s_max, 0.1, 600)
        if self.pin_mode not in ("attended", "unattended"):
            raise SettingsError("signer.pin_mode: must be attended or unattended")
        if self.module_configuration and not _MODULE_CONFIGURATION.fullmatch(self.module_configuration):
            raise SettingsError("signer.module_configuration: must be NAME=PATH, NAME in capitals with CONF at its end")


_TPM = SignerSettings(token="tpm2")  # noqa: S106  a kind of token, no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderSettings:
    """Sizes of the message log."""

    segment_bytes_max: int = 64 << 20
    """A closed segment is copied once a day while parts of it fall due, and mapped whole: not a file for each few records, and never more
    than the room beside it (1 GiB)."""
    reserve_bytes: int = 16 << 20
    """Kept free for the audit log: below it `append` answers log.full. At least what a stamp, a checkpoint and a start need; a larger one
    than 4 GiB would keep messages out for nothing."""
    waiting_max: int = 4096
    """Messages that wait for the disk; each may hold some 70 KiB of memory. Fewer than 16 would refuse a single batch."""
    checkpoint_s: int = 60
    """A signed checkpoint at the latest so long after a record: what nobody else knows of yet could be cut off the log's end unseen."""
    checkpoint_records: int = 20_000
    """Or after so many records."""
    operations_bytes_max: int = 256 << 20
    """Operational records, compressed: some millions, for seven days at most; the oldest go first."""
    signed_documents: bool = True
    """Whether information systems may fetch the signed documents of their own messages (`/asic`)."""

    def __post_init__(self) -> None:
        _within("recorder.segment_bytes_max", self.segment_bytes_max, 32 << 10, 1 << 30)
        _within("recorder.reserve_bytes", self.reserve_bytes, 1 << 20, 4 << 30)
        _within("recorder.waiting_max", self.waiting_max, 16, 65_536)
        _within("recorder.operations_bytes_max", self.operations_bytes_max, 1 << 20, 64 << 30)
        _within("recorder.checkpoint_s", self.checkpoint_s, 1, 3600)
        _within("recorder.checkpoint_records", self.checkpoint_records, 100, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivistSettings:
    """Where archives of the message log go, and who may open them. Without both none are made, and nothing is erased."""

    directory: str = ""
    """An absolute path, other than the log's disk: another disk, a mounted share."""
    directory_place: str = ""
    """The country where it is (ISO 3166-1): critical assets stay in Mexico (I.4.I, IV.2.III.D)."""
    recipients: str = ""
    """age recipients (`age1...`), separated by spaces: public keys."""
    grouping: str = "none"
    """`none`, `member` or `subsystem`: whose messages share archives and a chain."""
    archive_bytes_max: int = 32 << 20
    interval_s: int = 6 * 3600
    alarm_s: int = 24 * 3600
    """Archives that cannot be made or handed over for so long are an incident."""

    def __post_init__(self) -> None:
        if self.grouping not in ("none", "member", "subsystem"):
            raise SettingsError("archivist.grouping: must be none, member or subsystem")
        if self.directory and not self.directory.startswith("/"):
            raise SettingsError("archivist.directory: must be an absolute path")
        if self.directory and self.directory_place != "MX":
            raise SettingsError("archivist.directory_place: must be MX, the archive stays in Mexico (rules I.4.I and IV.2.III.D)")
        _within("archivist.archive_bytes_max", self.archive_bytes_max, 1 << 20, 1 << 30)
        _within("archivist.interval_s", self.interval_s, 60, 7 * 86400)
        _within("archivist.alarm_s", self.alarm_s, 60, 7 * 86400)


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HOST_KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]{40,2000}={0,2}")
_ENDPOINT = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([A-Za-z0-9_.-]{1,100}/){0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CourierSettings:
    """Remote targets of archives: an SFTP server, an S3-compatible service, or both. Each must have an archive before it is confirmed.

    Credentials are files of the process (`credentials/courier/`): `sftp_key` (a private key of OpenSSH), `s3_key` (access key and secret).
    """

    sftp_host: str = ""
    sftp_port: int = 22
    sftp_user: str = ""
    sftp_directory: str = ""
    """An absolute path on the server; it must exist."""
    sftp_host_key: str = ""
    """`ssh-ed25519 AAAA...`: the server's public key, pinned."""
    sftp_place: str = ""
    s3_endpoint: str = ""
    """`https://host[:port]`."""
    s3_bucket: str = ""
    s3_prefix: str = ""
    """Before every name: empty, or `words/`."""
    s3_region: str = "us-east-1"
    s3_authorities: str = ""
    """PEM file of the authorities that vouch for the service; empty: the system's."""
    s3_place: str = ""
    retry_s: int = 30
    """After a failure; doubled at each further one, up to `retry_s_max`."""
    retry_s_max: int = 1800

    def __post_init__(self) -> None:
        if self.sftp_host:
            self._check_sftp()
        if self.s3_endpoint:
            self._check_s3()
        for path, place in (("sftp", self.sftp_place if self.sftp_host else "MX"), ("s3", self.s3_place if self.s3_endpoint else "MX")):
            if place != "MX":
                raise SettingsError(f"courier.{path}_place: must be MX, the archive stays in Mexico (rules I.4.I and IV.2.III.D)")
        _within("courier.retry_s", self.retry_s, 1, 3600)
        _within("courier.retry_s_max", self.retry_s_max, self.retry_s, 86400)

    def _check_sftp(self) -> None:
        if not _HOST.fullmatch(self.sftp_host):
            raise SettingsError("courier.sftp_host: must be a name or an address")
        if not _ACCOUNT.fullmatch(self.sftp_user):
            raise SettingsError("courier.sftp_user: must be an account's name")
        if not self.sftp_directory.startswith("/"):
            raise SettingsError("courier.sftp_directory: must be an absolute path")
        if not _HOST_KEY.fullmatch(self.sftp_host_key):
            raise SettingsError("courier.sftp_host_key: must be the server's public key, `ssh-ed25519 AAAA...`")
        _within("courier.sftp_port", self.sftp_port, 1, 65535)

    def _check_s3(self) -> None:
        if not _ENDPOINT.fullmatch(self.s3_endpoint):
            raise SettingsError("courier.s3_endpoint: must be https://host or https://host:port")
        if not _BUCKET.fullmatch(self.s3_bucket):
            raise SettingsError("courier.s3_bucket: must be a bucket's name")
        if not _PREFIX.fullmatch(self.s3_prefix):
            raise SettingsError("courier.s3_prefix: must be empty or end with /")

    def target_names(self) -> list[str]:
        """As archives, audit records and the courier name them."""
        names = [f"sftp {self.sftp_user}@{self.sftp_host}:{self.sftp_port}{self.sftp_directory}"] if self.sftp_host else []
        return [*names, *([f"s3 {self.s3_endpoint}/{self.s3_bucket}/{self.s3_prefix}"] if self.s3_endpoint else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAgentSettings:
    """How often trust material is fetched. Addresses come from the anchor and the global configuration."""

    configuration_fetch_interval_s: int = 60
    ocsp_fetch_interval_s: int = 1200
    ocsp_retry_s: int = 60
    connect_s_max: int = 5
    read_s_max: int = 10
    https_authorities: str = ""
    """PEM file of the authorities that vouch for https sources of the configuration; empty: the system's."""

    def __post_init__(self) -> None:
        _within("trust_agent.ocsp_fetch_interval_s", self.ocsp_fetch_interval_s, 60, 48 * 60)
        _within("trust_agent.configuration_fetch_interval_s", self.configuration_fetch_interval_s, 1, 3600)
        for name in ("ocsp_retry_s", "connect_s_max", "read_s_max"):
            _within(f"trust_agent.{name}", getattr(self, name), 1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterSettings:
    """CEIQROO's broker."""

    broker_host: str = ""
    broker_port: int = 8883
    report_interval_s: int = 30
    keep_alive_s: int = 30

    def __post_init__(self) -> None:
        _within("reporter.broker_port", self.broker_port, 1, 65_535)
        _within("reporter.report_interval_s", self.report_interval_s, 1, 3600)
        _within("reporter.keep_alive_s", self.keep_alive_s, 5, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """How long a silent process is still believed."""

    announcement_s_max: int = 15

    def __post_init__(self) -> None:
        _within("supervisor.announcement_s_max", self.announcement_s_max, 1, 3600)


SECTIONS: dict[str, type] = {
    "box": BoxSettings,
    "relay": RelaySettings,
    "signer": SignerSettings,
    "recorder": RecorderSettings,
    "trust_agent": TrustAgentSettings,
    "reporter": ReporterSettings,
    "archivist": ArchivistSettings,
    "courier": CourierSettings,
    "supervisor": SupervisorSettings,
}

SETTINGS_FILE = "box.toml"
NOBODY = BoxSettings(instance="", member_class="", member_code="", server_code="")

_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}

Section = TypeVar("Section")


def load(state: Path, section: type[Section]) -> Section:
    """One section of `<state>/box.toml`, checked together with all others; defaults and NOBODY where there is no such file.

    Raises SettingsError. Whoever writes the file has the processes started again: systemd sees it, the laboratory writes it first.
    """
    file = state / SETTINGS_FILE
    found: Section = (load_all(file) if provisioned(state) else _unprovisioned())[section]
    return found


def provisioned(state: Path) -> bool:
    """Whether this box has settings; without them it waits for them (`settings`)."""
    return (state / SETTINGS_FILE).exists()


def _unprovisioned() -> dict[type, Any]:
    """The TPM is the token that a box has before anybody says which one it shall use: enrolment proves by it which box this is."""
    return {kind: kind() for kind in SECTIONS.values() if kind is not BoxSettings} | {BoxSettings: NOBODY, SignerSettings: _TPM}


def load_all(file: Path) -> dict[type, Any]:
    """Every section, each checked: a mistake in a neighbour's section is found by whoever starts first."""
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from None
    for name in document:
        if name not in SECTIONS:
            raise SettingsError(f"{name}: unknown section{_nearest(name, SECTIONS)}")
    return {kind: _section(name, kind, document.get(name, {})) for name, kind in SECTIONS.items()}


def _section(name: str, kind: type, values: dict[str, Any]) -> Any:
    known = {field.name: field for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise SettingsError(f"{name}.{key}: unknown key{_nearest(key, known)}")
        wanted = _KINDS[str(known[key].type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise SettingsError(f"{name}.{key}: must be {known[key].type}")
    missing = [key for key, field in known.items() if field.default is MISSING and key not in values]
    if missing:
        raise SettingsError(f"{name}.{missing[0]}: missing")
    return kind(**values)


def _nearest(key: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f", did you mean {close[0]}?" if close else ""
