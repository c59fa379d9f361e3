"""Operational records: what an exchange cost and how it ended, in X-Road's fields; and what is asked about them.

Pure. Sheet 8.1: one record for each exchange and side, with exactly these JSON names; absent values are left out. No content. Operations of
the recorder: `take_operations`, `query_operations`, `operations_health` (relay), `list_operations` (persons).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from appliance.model.identifiers import ClientId

CONSUMER, PRODUCER = "Client", "Producer"
"""securityServerType: our role in the exchange."""
TEXT_CHARACTERS_MAX, FAULT_CHARACTERS_MAX = 255, 2048
"""As X-Road's daemon cuts them."""
TAKE_MAX = 1000
"""Records in one `take_operations`."""
PERSONAL = ("messageId", "messageUserId", "messageIssue", "representedPartyClass", "representedPartyCode", "restPath", "faultString")
"""Fields that may name persons, or were chosen by them: persons are not shown them without a reason (IV.2.III.B); the log has them."""

_Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
_Fault = Annotated[str, msgspec.Meta(max_length=FAULT_CHARACTERS_MAX)]


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """Times in milliseconds of wall time, sizes in bytes. Strings are cut by whoever fills it in (`cut`)."""

    monitoring_data_ts: int = 0
    """When the recorder took it, in seconds: what queries go by."""
    security_server_internal_ip: _Text
    security_server_type: _Text
    request_in_ts: int
    request_out_ts: int | None = None
    response_in_ts: int | None = None
    response_out_ts: int
    client_x_road_instance: _Text | None = None
    client_member_class: _Text | None = None
    client_member_code: _Text | None = None
    client_subsystem_code: _Text | None = None
    service_x_road_instance: _Text | None = None
    service_member_class: _Text | None = None
    service_member_code: _Text | None = None
    service_subsystem_code: _Text | None = None
    service_code: _Text | None = None
    service_version: _Text | None = None
    service_type: _Text | None = None
    rest_method: _Text | None = None
    rest_path: _Text | None = None
    status_code: int | None = None
    message_id: _Text | None = None
    message_user_id: _Text | None = None
    message_issue: _Text | None = None
    message_protocol_version: _Text | None = None
    x_request_id: _Text | None = None
    represented_party_class: _Text | None = None
    represented_party_code: _Text | None = None
    client_security_server_address: _Text | None = None
    service_security_server_address: _Text | None = None
    request_size: int | None = None
    response_size: int | None = None
    request_mime_size: int | None = None
    response_mime_size: int | None = None
    request_attachment_count: int | None = None
    response_attachment_count: int | None = None
    succeeded: bool
    fault_code: _Text | None = None
    fault_string: _Fault | None = None
    x_road_version: _Text | None = None

    def is_of_client(self, client: ClientId) -> bool:
        """Exactly this member or subsystem asked."""
        return (
            self.client_member_code == client.member_code
            and self.client_subsystem_code == client.subsystem
            and self.client_member_class == client.member_class
            and self.client_x_road_instance == client.instance
        )

    def is_of_provider(self, provider: ClientId) -> bool:
        """Exactly this member or subsystem was asked."""
        return (
            self.service_member_code == provider.member_code
            and self.service_subsystem_code == provider.subsystem
            and self.service_member_class == provider.member_class
            and self.service_x_road_instance == provider.instance
        )


FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(Operation))
"""Every field that an `outputField` may name."""


def cut(text: str | None, characters_max: int = TEXT_CHARACTERS_MAX) -> str | None:
    """A text that fits; lone surrogates, which a decoded path may have, become `?`."""
    if text is None or (text.isascii() and len(text) <= characters_max):
        return text
    return text[:characters_max].encode("utf-8", "replace").decode()


class QueryOperations(msgspec.Struct, array_like=True):
    """`query_operations`: seconds, both inclusive. `seen_by`: only records in which it is client or provider; None: all."""

    from_s: int
    to_s: int
    seen_by: ClientId | None = None
    provider: ClientId | None = None
    fields: list[str] = []
    """JSON names; empty: all."""


class FoundOperations(msgspec.Struct, array_like=True):
    """`records`: gzip of `{"records":[...]}`. `next_from_s`: where the next query begins, where there is more or more may still come."""

    count: int
    records: bytes
    next_from_s: int | None = None


class AskHealth(msgspec.Struct, array_like=True):
    """`operations_health`; `provider`: only its services."""

    provider: ClientId | None = None


class Spread(msgspec.Struct, array_like=True):
    """Of one measure over a period."""

    least: int
    mean: float
    greatest: int
    deviation: float


class ServiceHealth(msgspec.Struct, array_like=True):
    """One of our services. Moments in milliseconds."""

    provider: ClientId
    code: str
    version: str | None
    type: str | None
    last_success_ms: int | None
    last_failure_ms: int | None
    succeeded: int
    failed: int
    duration: Spread | None = None
    request_size: Spread | None = None
    response_size: Spread | None = None


class OperationsHealth(msgspec.Struct, array_like=True):
    started_ms: int
    period_s: int
    services: list[ServiceHealth]


class ListOperations(msgspec.Struct, array_like=True):
    """`list_operations`: for persons, newest last, without PERSONAL fields. Empty names: any."""

    from_s: int
    to_s: int
    client: str = ""
    service: str = ""
    limit: int = 1000
