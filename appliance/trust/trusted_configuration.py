"""From anchor to view: which global configuration is in force.

Pure. Order: anchor -> signed directory -> its parts -> view. A new configuration replaces the old one only as a whole, only if all of it
verifies, and only if it is not older; whatever fails leaves the old one in force, until that one expires. So a replayed directory cannot
take back a suspension, and parts of two directories never meet (T14).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from appliance.clock import to_us
from appliance.errors import UnavailableError, UnverifiedError
from appliance.trust.directory import PRIVATE, SHARED, PartEntry, SignedDirectory, check_signature, parse_directory
from appliance.trust.global_configuration import (
    Anchor,
    AnchorSource,
    ConfigurationMalformedError,
    PrivateParameters,
    SharedParameters,
    parse_private_parameters,
    parse_shared_parameters,
)
from appliance.trust.optional_parts import OptionalParts, parse_optional_parts
from appliance.trust.signed_time import CLOCK_STOP_US

VERSION_WITHOUT_HEADER = 2
"""A directory that names no version was made before there were versions (sheet 6.3)."""


class ConfigurationAbsentError(UnavailableError):
    """There is no global configuration yet."""

    kind = "configuration.absent"


class ConfigurationExpiredError(UnavailableError):
    """The validity that CEIQROO gave has passed: nothing may be exchanged on it (X-Road: `global_conf_outdated`)."""

    kind = "configuration.expired"


class ConfigurationRolledBackError(UnverifiedError):
    """Genuine, but older than what is in force: an old one replayed."""

    kind = "configuration.rolled_back"


class ConfigurationFromFutureError(UnverifiedError):
    """Genuine, but made more than five minutes after our now: one of the clocks is wrong. It would keep all others out."""

    kind = "configuration.from_future"

    def __init__(self, ahead_us: int, generated_us: int) -> None:
        super().__init__(f"the directory was made {ahead_us // 1_000_000} s from now")
        self.generated_us = generated_us


class ConfigurationWrongInstanceError(UnverifiedError):
    """Genuine, but of another network."""

    kind = "configuration.wrong_instance"


class ConfigurationMixedError(UnverifiedError):
    """A part is not the one that the directory lists."""

    kind = "configuration.mixed"


@dataclass(frozen=True, slots=True)
class ConfigurationInForce:
    """Everything verified together."""

    instance: str
    directory: SignedDirectory
    parts: tuple[tuple[PartEntry, bytes], ...]
    shared: SharedParameters
    private: PrivateParameters | None
    optional: OptionalParts = OptionalParts()

    @property
    def version(self) -> int:
        return self.directory.version or VERSION_WITHOUT_HEADER

    @property
    def expires_us(self) -> int:
        return self.directory.expires_us

    @property
    def generated_us(self) -> int:
        """When CEIQROO made it, as far as the directory says: 0 where it does not."""
        return _generated_us(self.directory)

    @property
    def content(self) -> frozenset[tuple[str, bytes]]:
        """Equal for equal contents, whatever the expiry: this is what a generation counts."""
        return frozenset((entry.identifier, entry.digest) for entry, _ in self.parts)


def _generated_us(directory: SignedDirectory) -> int:
    try:
        return to_us(datetime.strptime(directory.generated[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC))
    except ValueError:
        return 0


class TrustedConfiguration:
    """One instance's configuration. Invariant: `in_force` was verified completely, and only ever gets newer.

    Call order: `directory_received`, then `parts_received` with what it asked for; another order is a RuntimeError.
    """

    def __init__(self, anchor: Anchor, *, own: bool = True) -> None:
        self._anchor, self._own = anchor, own
        self._in_force: ConfigurationInForce | None = None
        self._awaited: SignedDirectory | None = None
        self._newest: SignedDirectory | None = None

    def anchored_anew(self, anchor: Anchor) -> None:
        """A person replaced the anchor: the next configuration under it counts even if it is older, and only this anchor's keys count
        until it came. What is in force stays so until then, or until it expires."""
        self._anchor, self._newest, self._awaited = anchor, None, None

    @property
    def in_force(self) -> ConfigurationInForce | None:
        """The last good configuration, expired or not."""
        return self._in_force

    def view(self, now_us: int) -> ConfigurationInForce:
        """What counts now. Raises ConfigurationAbsentError, ConfigurationExpiredError."""
        if self._in_force is None:
            raise ConfigurationAbsentError("no global configuration yet")
        if self._in_force.expires_us <= now_us:
            raise ConfigurationExpiredError("the global configuration has expired")
        return self._in_force

    def sources(self) -> tuple[AnchorSource, ...]:
        """Where to ask, each with the certificates that count there: the sources that the last good configuration names, then the
        anchor's (sheet 6.2). So CEIQROO can change its keys without new anchors."""
        found: list[AnchorSource] = []
        if self._in_force is not None and self._newest is not None:
            for source in self._in_force.shared.sources:
                name = "internalconf" if self._own else "externalconf"
                signers = source.internal_certificates if self._own else source.external_certificates
                if signers:
                    found.append(AnchorSource(f"http://{source.address}/{name}", signers))
        return (*found, *self._anchor.sources)

    def directory_received(self, body: bytes, source: AnchorSource, now_us: int | None) -> tuple[PartEntry, ...]:
        """A directory came from `source`: returns the parts whose content we do not hold yet. `now_us`: None where evidence of another
        time is judged, so that neither its end nor its beginning matters.

        Raises ConfigurationMalformedError, ConfigurationUntrustedError, ConfigurationExpiredError, ConfigurationWrongInstanceError,
        ConfigurationRolledBackError, ConfigurationFromFutureError; then nothing has changed.
        """
        self._awaited = None
        directory = parse_directory(body)
        check_signature(directory, source.certificates)
        if now_us is not None and directory.expires_us <= now_us:
            raise ConfigurationExpiredError("the directory has expired already")
        self._check_instance(directory)
        self._check_order(directory)
        generated_us = _generated_us(directory)
        if now_us is not None and generated_us - now_us > CLOCK_STOP_US:
            raise ConfigurationFromFutureError(generated_us - now_us, generated_us)
        self._awaited = directory
        held = self._held()
        return tuple(entry for entry in self._wanted(directory) if (entry.identifier, entry.digest) not in held)

    def parts_received(self, contents: Mapping[PartEntry, bytes]) -> ConfigurationInForce:
        """The parts that were asked for. Raises ConfigurationMixedError, ConfigurationMalformedError, ConfigurationWrongInstanceError,
        CertificateMalformedError; then the old configuration stays in force."""
        if self._awaited is None:
            raise RuntimeError("parts before their directory")
        directory, self._awaited = self._awaited, None
        held = self._held()
        parts = []
        for entry in self._wanted(directory):
            content = held.get((entry.identifier, entry.digest))
            if content is None:
                content = contents.get(entry)
            if content is None or not entry.is_of(content):
                raise ConfigurationMixedError(f"{entry.identifier} is not what the directory lists")
            parts.append((entry, content))
        self._in_force, self._newest = self._assembled(directory, tuple(parts)), directory
        return self._in_force

    def reloaded(self, body: bytes, contents: Mapping[bytes, bytes]) -> ConfigurationInForce:
        """What was in force before a restart, out of our own files: the directory, and contents by their digest.

        It was verified when it came; the digests are checked again, so that a torn or swapped file does not pass. Also when expired:
        it still says how old a newer one must be. Raises as parts_received does.
        """
        directory = parse_directory(body)
        self._check_instance(directory)
        self._awaited = directory
        return self.parts_received({entry: contents.get(entry.digest, b"") for entry in directory.parts})

    def _wanted(self, directory: SignedDirectory) -> tuple[PartEntry, ...]:
        """All parts of our own instance; of another one only its shared parameters (sheet 6.2)."""
        return tuple(entry for entry in directory.parts if self._own or entry.identifier == SHARED)

    def _held(self) -> dict[tuple[str, bytes], bytes]:
        if self._in_force is None:
            return {}
        return {(entry.identifier, entry.digest): content for entry, content in self._in_force.parts}

    def _check_instance(self, directory: SignedDirectory) -> None:
        identifiers = [entry.identifier for entry in directory.parts]
        if identifiers.count(SHARED) != 1 or identifiers.count(PRIVATE) > 1:
            raise ConfigurationMalformedError("a directory lists its shared parameters once")
        if any(entry.instance not in ("", self._anchor.instance) for entry in directory.parts):
            raise ConfigurationWrongInstanceError("the directory is another instance's")

    def _check_order(self, directory: SignedDirectory) -> None:
        """Not older than what is in force: by the time in the parts' paths where both have it (then CEIQROO may also shorten the validity
        that it gives), else by the end of validity."""
        old = self._newest
        if old is None:
            return
        if old.generated and directory.generated and old.generated != directory.generated:
            is_older = directory.generated < old.generated
        else:
            is_older = directory.expires_us < old.expires_us
        if is_older:
            raise ConfigurationRolledBackError("the directory is older than the one in force")

    def _assembled(self, directory: SignedDirectory, parts: tuple[tuple[PartEntry, bytes], ...]) -> ConfigurationInForce:
        content = {entry.identifier: data for entry, data in parts}
        shared = parse_shared_parameters(content[SHARED], directory.version or VERSION_WITHOUT_HEADER)
        private = parse_private_parameters(content[PRIVATE]) if PRIVATE in content else None
        if shared.instance != self._anchor.instance or private is not None and private.instance != self._anchor.instance:
            raise ConfigurationWrongInstanceError("a part is another instance's")
        optional = parse_optional_parts(content) if self._own else OptionalParts()
        shared = replace(shared, checks_next_update=optional.checks_next_update)
        return ConfigurationInForce(self._anchor.instance, directory, parts, shared, private, optional)
