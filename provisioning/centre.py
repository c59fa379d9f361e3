"""One instance of CEIQROO on disk: where its keys, certificates and registry lie, and what it tells its boxes.

I/O. Layout: `centre.json` (this file's settings), `anchor.xml`, `authorities.pem` (root and issuing authority), `registry.sqlite`,
`certificates/NAME.{der,pem}`, `manufacturers/` (of TPMs), `keys/NAME.pem` (0600, the services' keys) and `root/root.pem` (used only by
`authority init` and taken off the machine afterwards in production).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.errors import UNREADABLE, CorruptStateError, SettingsError
from provisioning.registry import Registry

SETTINGS_FILE = "centre.json"
REGISTRY_FILE = "registry.sqlite"

EIGHT_HOURS_S = 8 * 3600
"""What one OCSP response may be worth (IV.3.V); neither freshness nor grace may promise more."""


class CentreMissingError(SettingsError):
    """The directory holds no centre: `ceiqroo authority init` was never run, or did not finish."""

    kind = "centre.missing"


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name}: must be {low} to {high}")


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the instance signs into its global configuration. Seconds."""

    validity_s: int = 9 * 3600
    """Expire-date of the directory lies this far ahead: the boxes' autonomy, and how long a cut-off box trusts a removed member."""
    ocsp_freshness_s: int = EIGHT_HOURS_S
    ocsp_validity_s: int = 9 * 3600
    """nextUpdate of an OCSP response: longer than the freshness, so that freshness decides and not the responder."""
    time_stamping_interval_s: int = 60
    ocsp_fetch_interval_s: int = 0
    """How often boxes fetch OCSP responses (part FETCHINTERVAL); 0: not said, X-Road's 20 minutes."""
    checks_next_update: bool = True
    """Whether the end of validity that responders state counts (part NEXTUPDATE)."""
    stamp_grace_s: int = 4 * 3600
    """How long boxes may deliver provisionally while every time-stamping authority is silent (IV.3.VI); 0: never."""

    def __post_init__(self) -> None:
        _within("validity_s", self.validity_s, 1, 10 * 365 * 86400)
        _within("ocsp_freshness_s", self.ocsp_freshness_s, 1, EIGHT_HOURS_S)
        _within("ocsp_validity_s", self.ocsp_validity_s, 1, 7 * 86400)
        _within("time_stamping_interval_s", self.time_stamping_interval_s, 1, 86400)
        _within("ocsp_fetch_interval_s", self.ocsp_fetch_interval_s, 0, 48 * 60)
        _within("stamp_grace_s", self.stamp_grace_s, 0, EIGHT_HOURS_S)


class CentreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chosen once, at `authority init`: certificates and anchors name these addresses."""

    instance: str
    address: str
    initialised_us: int
    configuration_port: int = 8000
    ocsp_port: int = 8888
    tsa_port: int = 8899
    broker_host: str = ""
    broker_port: int = 8883
    configuration_https_port: int = 4443
    parameters: Parameters = Parameters()

    def __post_init__(self) -> None:
        for name in ("configuration_port", "ocsp_port", "tsa_port", "broker_port", "configuration_https_port"):
            _within(name, getattr(self, name), 1, 65535)


@dataclass(frozen=True, slots=True)
class Centre:
    """An initialised centre. Keys are read when they are used, so that a service holds no key but its own."""

    directory: Path
    settings: CentreSettings

    @classmethod
    def open(cls, directory: Path) -> Centre:
        """Raises CentreMissingError, or CorruptStateError when the settings do not parse."""
        file = directory / SETTINGS_FILE
        try:
            settings = msgspec.json.decode(file.read_bytes(), type=CentreSettings)
        except FileNotFoundError:
            raise CentreMissingError(f"{directory} holds no centre; run: ceiqroo authority init {directory}") from None
        except UNREADABLE as error:
            raise CorruptStateError(f"{file}: {error}", kind="centre.corrupt") from None
        return cls(directory, settings)

    @property
    def instance(self) -> str:
        return self.settings.instance

    @property
    def configuration_address(self) -> str:
        """Host and port, as a `source` of the shared parameters names it."""
        return f"{_host(self.settings.address)}:{self.settings.configuration_port}"

    @property
    def configuration_url(self) -> str:
        return self.source_url(external=False)

    def source_url(self, *, external: bool, https: bool = False) -> str:
        """Where our own boxes (or, `external`, those of federated instances) fetch the configuration."""
        scheme, port = ("https", self.settings.configuration_https_port) if https else ("http", self.settings.configuration_port)
        return f"{scheme}://{_host(self.settings.address)}:{port}/{'externalconf' if external else 'internalconf'}"

    @property
    def ocsp_url(self) -> str:
        return f"http://{_host(self.settings.address)}:{self.settings.ocsp_port}/ocsp"

    @property
    def tsa_url(self) -> str:
        return f"http://{_host(self.settings.address)}:{self.settings.tsa_port}/tsa"

    @property
    def anchor_file(self) -> Path:
        return self.directory / "anchor.xml"

    @property
    def authorities_file(self) -> Path:
        """Issuing authority and root in PEM: what `openssl` takes as its CA file."""
        return self.directory / "authorities.pem"

    @property
    def manufacturers_directory(self) -> Path:
        """Roots and intermediates of TPM manufacturers whose endorsement certificates are believed: PEM or DER, put there by an officer."""
        return self.directory / "manufacturers"

    def manufacturers(self) -> list[x509.Certificate]:
        """Raises CorruptStateError."""
        found: list[x509.Certificate] = []
        for file in sorted(self.manufacturers_directory.glob("*")):
            data = file.read_bytes()
            try:
                found += x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
            except ValueError as error:
                raise CorruptStateError(f"{file}: {error}", kind="centre.corrupt") from None
        return found

    def registry(self) -> Registry:
        """A connection of its own: callers close it, and use it from one thread."""
        return Registry(self.directory / REGISTRY_FILE)

    def certificate(self, name: str) -> x509.Certificate:
        """One of `root issuing ocsp tsa configuration broker monitor`. Raises CorruptStateError."""
        try:
            return x509.load_der_x509_certificate(self.certificate_file(name).read_bytes())
        except (OSError, ValueError) as error:
            raise CorruptStateError(f"certificate {name}: {error}", kind="centre.corrupt") from None

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The private key beside that certificate. Raises CorruptStateError."""
        try:
            key = load_pem_private_key(self.key_file(name).read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptStateError(f"key {name}: {error}", kind="centre.corrupt") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CorruptStateError(f"key {name} is not an EC key", kind="centre.corrupt")
        return key

    def certificate_file(self, name: str, form: str = "der") -> Path:
        """The certificate as `der`, or as `pem` for tools."""
        return self.directory / "certificates" / f"{name}.{form}"

    def key_file(self, name: str) -> Path:
        return self.directory / ("root" if name == "root" else "keys") / f"{name}.pem"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
