"""What a box tells CEIQROO of itself: states, counters, ages, figures. Never content, never a name of a person or of a case.

Pure. Everything that goes out is named here, and what came from another process must have the form of a kind or a figure: a whitelist,
so that a new counter or fact cannot carry anything else (reliability T06, threat A15).
"""

from __future__ import annotations

import re

import msgspec

from appliance.health.horizons import RULES
from appliance.hsm.wire import TokenStatus
from appliance.messagelog.wire import LogStatus
from appliance.supervision.states import ADVICE, BoxState
from appliance.supervision.wire import BoxStatus, ProcessStatus
from appliance.trust.wire import TrustStatus

Figure = str | int | float | bool | None

COUNTERS_MAX = 150
"""Per process: every error kind of the box fits."""
PROCESSES_MAX = 32
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[a-z0-9_]{1,40}){0,3}")
_WORD = re.compile(r"-?[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}")
_CHECKPOINT = re.compile(
    r"xacbe\.log/[!-~]{1,1000}\n[0-9]{1,19}\n[A-Za-z0-9+/]{43}=\nat [0-9]{1,19}\n(counter [0-9]{1,19}\n)?"
    r"\n(\u2014 xacbe\.log/[!-~]{1,1000} [A-Za-z0-9+/=]{1,1000}\n){1,16}"
)
_PROOF = re.compile(r"[0-9]{1,19}( [A-Za-z0-9+/]{43}=){0,65}(;[0-9]{1,19}( [A-Za-z0-9+/]{43}=){0,65}){0,7}")
"""What CEIQROO keeps of the message log: a signed root and hashes, nothing that was said (`messagelog.checkpoint`)."""
PROCESS_STATES = frozenset({"serving", "waiting", "resting", "silent"})
TOKEN_STATES = frozenset({"ready", "locked", "absent", "pin_rejected", "pin_locked", "uninitialised"})
FACTS = frozenset({"clock", "clock_offset_ms", "connections", "exchanges_running", "generation", "keys", "log", "repaired_bytes", "token"})
"""Facts of announcements that may leave the box; their values must be one word."""


class HostFigures(msgspec.Struct, array_like=True):
    """The machine, as psutil sees it. `memory`: bytes resident by process id. None: not measurable here."""

    load_1m: float
    cpus: int
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int
    temperature_c: float | None
    memory: dict[int, int]


class OutboxFigures(msgspec.Struct, array_like=True):
    """What waits for the broker, and how many reports were dropped because it waited too long."""

    reports: int
    incidents: int
    dropped: int


class Report(msgspec.Struct, array_like=True):
    """One report: the box (`node`) and each process instance (`devices`), metric name to value."""

    at_us: int
    node: dict[str, Figure]
    devices: dict[str, dict[str, Figure]]


def build(
    now_us: int,
    box: BoxStatus | None,
    token: TokenStatus | None,
    trust: TrustStatus | None,
    log: LogStatus | None,
    host: HostFigures,
    outbox: OutboxFigures,
) -> Report:
    """The report of this moment. None: that process did not answer; its figures are told as missing. Ages in seconds."""
    node = _box(box, now_us) | _token(token) | _trust(trust, now_us) | _log(log, now_us) | _host(host) | _outbox(outbox)
    processes = box.processes[:PROCESSES_MAX] if box is not None else []
    return Report(now_us, node, {device_of(one): _process(one, host) for one in processes if _is_kind(one.process)})


def device_of(status: ProcessStatus) -> str:
    """The device's name of a process instance: `signer`, `relay.1`."""
    return status.process if status.instance == 0 else f"{status.process}.{status.instance}"


def _box(box: BoxStatus | None, now_us: int) -> dict[str, Figure]:
    if box is None:
        return {"State": "UNKNOWN", "Advice": "advice.supervisor_away"}
    silent = sorted({device_of(one) for one in box.processes if one.state == "silent" and _is_kind(one.process)})
    return {
        "State": box.state if box.state in BoxState.__members__ else "UNKNOWN",
        "Advice": " ".join(key for key in box.advice if key in ADVICE),
        "Version": _word(box.version),
        "Uptime s": _age(now_us, box.started_us),
        "Silent processes": " ".join(silent),
        "Silent services": " ".join(word for word in box.silent_services if _is_kind(word)),
        "Autonomy/Sealing ends": box.sealing_ends_us,
        "Autonomy/Configuration expires": box.configuration_expires_us,
        "Autonomy/Soonest": next((one.service for one in box.horizons if one.ends_us is not None and _is_kind(one.service)), ""),
        **{f"Autonomy/{service} s": None for service in RULES},
        **{f"Autonomy/{one.service} s": _left(now_us, one.ends_us) for one in box.horizons if one.service in RULES},
    }


def _token(token: TokenStatus | None) -> dict[str, Figure]:
    state = token.state if token is not None and token.state in TOKEN_STATES else "unknown"
    return {
        "Token/State": state,
        "Token/Tries left": None if token is None else token.tries_left,
        "Token/Signatures": None if token is None else token.signatures,
        "Token/Queue": None if token is None else token.queue,
    }


def _trust(trust: TrustStatus | None, now_us: int) -> dict[str, Figure]:
    produced = [one.produced_at_us for one in trust.evidence] if trust is not None else []
    failing = [one for one in trust.services if one.error] if trust is not None else []
    return {
        "Configuration/Generation": None if trust is None else trust.generation,
        "Ocsp/Responses": len(produced),
        "Ocsp/Oldest age s": _age(now_us, min(produced)) if produced else None,
        "Trust/Failing services": len(failing),
        "Trust/Errors": " ".join(sorted({one.error for one in failing if _is_kind(one.error)})),
    }


def _log(log: LogStatus | None, now_us: int) -> dict[str, Figure]:
    if log is None:
        return {"Log/State": "unknown"}
    return {
        "Log/State": log.state if log.state in ("open", "full") else "unknown",
        "Log/Records": log.records,
        "Log/Bytes": log.bytes,
        "Log/Free bytes": log.free_bytes,
        "Log/Waiting for stamp": log.waiting_for_stamp,
        "Log/Oldest waiting s": _age(now_us, log.oldest_waiting_us),
        "Stamp/Age s": _age(now_us, log.last_stamp_us),
        "Log/Checkpoint": log.checkpoint if _CHECKPOINT.fullmatch(log.checkpoint) else "",
        "Log/Checkpoint proof": log.checkpoint_proof if _PROOF.fullmatch(log.checkpoint_proof) else "",
        "Log/Notices due": log.notices_due,
    }


def _host(host: HostFigures) -> dict[str, Figure]:
    return {
        "Host/Load 1 min": round(host.load_1m, 2),
        "Host/Processors": host.cpus,
        "Host/Memory bytes": host.memory_total,
        "Host/Memory available bytes": host.memory_available,
        "Host/Disk bytes": host.disk_total,
        "Host/Disk free bytes": host.disk_free,
        "Host/Temperature C": host.temperature_c,
    }


def _outbox(outbox: OutboxFigures) -> dict[str, Figure]:
    return {"Outbox/Reports": outbox.reports, "Outbox/Incidents": outbox.incidents, "Outbox/Reports dropped": outbox.dropped}


def _process(status: ProcessStatus, host: HostFigures) -> dict[str, Figure]:
    counters = {kind: count for kind, count in sorted(status.counters.items()) if _is_kind(kind)}
    facts = {name: _word(value) for name, value in sorted(status.facts.items()) if name in FACTS}
    return {
        "State": status.state if status.state in PROCESS_STATES else "unknown",
        "Waits for": " ".join(word for word in status.waits_for if _WORD.fullmatch(word)),
        "Age s": round(status.age_s, 1),
        "Process": status.pid,
        "Memory bytes": host.memory.get(status.pid),
        **{f"Fact/{name}": value for name, value in facts.items()},
        **{f"Counter/{kind}": count for kind, count in list(counters.items())[:COUNTERS_MAX]},
    }


def incident_metrics(kind: str, process: str, facts: dict[str, str]) -> dict[str, Figure]:
    """An incident's metrics, through the same whitelist: facts are kinds, words and figures, or they stay here."""
    kept = {name: value for name, value in sorted(facts.items())[:20] if _is_kind(name) and _WORD.fullmatch(value)}
    return {
        "Incident/Kind": kind if _is_kind(kind) else "unknown",
        "Incident/Process": process if _is_kind(process) else "unknown",
        "Incident/Facts": " ".join(f"{name}={value}" for name, value in kept.items()),
    }


INCIDENT_METRICS = ("Incident/Number", "Incident/At", "Incident/Kind", "Incident/Process", "Incident/Facts")


def _is_kind(text: str) -> bool:
    return _KIND.fullmatch(text) is not None


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else "unknown"


def _left(now_us: int, ends_us: int | None) -> float | None:
    return None if ends_us is None else round((ends_us - now_us) / 1e6, 0)


def _age(now_us: int, then_us: int | None) -> float | None:
    return None if then_us is None else round((now_us - then_us) / 1e6, 1)
