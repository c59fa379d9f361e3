"""How our services fared lately: counts, durations and sizes over the last ten minutes, and when each last went well or badly.

Pure but for the batches that it is handed. Sheet 8.3, health answer: services of this box's own subsystems only (its producer's side).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from appliance.messagelog.operations import Operations
from appliance.messagelog.operations_wire import PRODUCER, Operation, OperationsHealth, ServiceHealth, Spread
from appliance.model.identifiers import ClientId

PERIOD_S = 600
"""As X-Road."""
SERVICES_MAX = 2000
"""Remembered since the start: an asker may invent services, which only fail; the first ones stay."""

Key = tuple[ClientId, str, str | None]


class ServicesSeen:
    """Since the start: the last success and failure of each service."""

    def __init__(self, started_ms: int) -> None:
        self._started_ms = started_ms
        self._last: dict[Key, list[int | None]] = {}
        self._types: dict[Key, str | None] = {}

    def saw(self, one: Operation) -> None:
        key = _key(one)
        if key is None or (key not in self._last and len(self._last) >= SERVICES_MAX):
            return
        self._last.setdefault(key, [None, None])[not one.succeeded] = one.response_out_ts
        self._types[key] = one.service_type or self._types.get(key)

    def health(self, operations: Operations, now_s: int, provider: ClientId | None) -> OperationsHealth:
        lately: dict[Key, list[Operation]] = {}
        for _, records, _ in operations.between(now_s - PERIOD_S, now_s):
            for one in records:
                key = _key(one)
                if key is not None and key in self._last:
                    lately.setdefault(key, []).append(one)
        found = sorted((key for key in self._last if provider in (None, key[0])), key=str)
        services = [self._service(key, lately.get(key, ())) for key in found]
        return OperationsHealth(self._started_ms, PERIOD_S, services)

    def _service(self, key: Key, records: Sequence[Operation]) -> ServiceHealth:
        success, failure = self._last[key]
        good = [one for one in records if one.succeeded]
        return ServiceHealth(
            *key,
            self._types.get(key),
            success,
            failure,
            len(good),
            len(records) - len(good),
            _spread([one.response_out_ts - one.request_in_ts for one in good]),
            _spread([one.request_mime_size or one.request_size or 0 for one in good]),
            _spread([one.response_mime_size or one.response_size or 0 for one in good]),
        )


def _key(one: Operation) -> Key | None:
    """None: not a service of ours, or a request that named none."""
    if one.security_server_type != PRODUCER or one.service_code is None:
        return None
    instance, member_class, member_code = one.service_x_road_instance, one.service_member_class, one.service_member_code
    if instance is None or member_class is None or member_code is None:
        return None
    return ClientId(instance, member_class, member_code, one.service_subsystem_code), one.service_code, one.service_version


def _spread(values: Sequence[int]) -> Spread | None:
    if not values:
        return None
    mean = sum(values) / len(values)
    return Spread(min(values), mean, max(values), math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)))
