"""The optional parts of a global configuration: what an instance may say besides its parameters.

Pure. Sheet 6.6: who may ask for monitoring data of every server (MONITORING), how often OCSP responses are fetched (FETCHINTERVAL), and
whether a responder's nextUpdate counts (NEXTUPDATE). A part that is absent leaves X-Road's default; one that does not say what it must
refuses the whole configuration, as any other part does. Parts of other names are kept for other readers and mean nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.model.identifiers import ClientId
from appliance.trust.global_configuration import ConfigurationMalformedError, child_text, client_id, root_of, whole_number

MONITORING, FETCH_INTERVAL, NEXT_UPDATE = "MONITORING", "FETCHINTERVAL", "NEXTUPDATE"
FILES = {MONITORING: "monitoring-params.xml", FETCH_INTERVAL: "fetchinterval-params.xml", NEXT_UPDATE: "nextupdate-params.xml"}
"""The names that X-Road's readers expect in the local layout."""

FETCH_INTERVAL_S_DEFAULT, FETCH_INTERVAL_S_MIN, FETCH_INTERVAL_S_MAX = 1200, 60, 48 * 60
"""X-Road's default and minimum; never later than 48 minutes, so that a response outlives a silent responder by more than seven hours."""


@dataclass(frozen=True, slots=True)
class OptionalParts:
    """What the optional parts say; the defaults where they are absent."""

    monitoring_client: ClientId | None = None
    """The one client, exactly this member or subsystem, that may ask every server for monitoring data (rule: nobody else)."""
    ocsp_fetch_interval_s: int = FETCH_INTERVAL_S_DEFAULT
    checks_next_update: bool = True


def parse_optional_parts(contents: Mapping[str, bytes]) -> OptionalParts:
    """From the parts' contents by identifier; others than the three are passed over. Raises ConfigurationMalformedError."""
    return OptionalParts(
        monitoring_client=_monitoring_client(contents.get(MONITORING)),
        ocsp_fetch_interval_s=_fetch_interval_s(contents.get(FETCH_INTERVAL)),
        checks_next_update=_checks_next_update(contents.get(NEXT_UPDATE)),
    )


def _monitoring_client(xml: bytes | None) -> ClientId | None:
    if xml is None:
        return None
    element = root_of(xml, "conf").find("monitoringClient/monitoringClientId")
    return None if element is None else client_id(element)


def _fetch_interval_s(xml: bytes | None) -> int:
    """A wish outside our bounds is brought within them: another instance of X-Road may ask for hours."""
    if xml is None:
        return FETCH_INTERVAL_S_DEFAULT
    wished = whole_number(child_text(root_of(xml, "conf"), "ocspFetchInterval"), 0, 999_999_999)
    return min(max(wished, FETCH_INTERVAL_S_MIN), FETCH_INTERVAL_S_MAX)


def _checks_next_update(xml: bytes | None) -> bool:
    if xml is None:
        return True
    match child_text(root_of(xml, "conf"), "verifyNextUpdate"):
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise ConfigurationMalformedError("verifyNextUpdate is neither true nor false")
