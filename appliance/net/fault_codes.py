"""Which X-Road code each kind of error is, and what may be said about it outside: the table behind `appliance.net.faults`.

Pure data. Codes are the specific part in the spelling of 7.8 (sheet 2.6); kinds about seals and certificates that are missing here have
their code in `appliance.seal.codes` and travel behind `signature_verification`. A kind in neither is a bug, which a test finds.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """`text` None: the error's own words may be shown, they speak of what the asker sent. Otherwise only `text` leaves the box."""

    code: str
    text: str | None = None


INTERNAL = "internal_error"
_OUT_OF_ORDER = "the security server is out of order"
_BUSY = "the security server cannot do this now"
_NOT_SIGNING = "the security server cannot seal now"
_NOT_STAMPING = "no time stamp could be had"
_NO_CONFIGURATION = "the security server has no valid global configuration"
_BOX_BROKEN, _NEIGHBOUR_AWAY = Row(INTERNAL, _OUT_OF_ORDER), Row(INTERNAL, _BUSY)
_UNSEALED, _UNSTAMPED, _UNCONFIGURED = (
    Row("cannot_create_signature", _NOT_SIGNING),
    Row("timestamping_failed", _NOT_STAMPING),
    Row("global_conf_outdated", _NO_CONFIGURATION),
)
_UNLOGGED = Row("logging_failed", "the message could not be recorded")
_TLS = Row("ssl_authentication_failed")

ROWS: dict[str, Row] = {
    # who may do what
    "access.authentication": _TLS,
    "access.client_unknown": Row("unknown_member"),
    "access.no_right": Row("access_denied", "the request is not allowed"),
    "access.service_disabled": Row("service_disabled"),
    "access.service_type": Row("service_type"),
    "access.unknown_service": Row("unknown_service"),
    "exchange.inconsistent_response": Row("inconsistent_response"),
    "exchange.invalid_security_server": Row("invalid_security_server"),
    "exchange.maintenance": Row("maintenance_mode"),
    "exchange.unknown_member": Row("unknown_member"),
    "exchange.unknown_instance": Row("unknown_member"),
    # what the information system or the peer wrote
    "envelope.content_type": Row("invalid_content_type"),
    "envelope.malformed": Row("missing_header_field"),
    "envelope.method": Row("invalid_http_method"),
    "envelope.status": Row("http_error"),
    "envelope.version": Row("client_proxy_version_not_supported"),
    "http.malformed": Row("invalid_message"),
    "identifier.malformed": Row(INTERNAL),
    "multipart.malformed": Row("mime_parsing_failed"),
    "multipart.too_many_parts": Row("mime_parsing_failed"),
    "peer.oversized": Row("invalid_message"),
    "peer.protocol": Row("invalid_message"),
    "rest.conflicting_header": Row("inconsistent_headers"),
    "rest.forbidden_header": Row(INTERNAL),
    "rest.inconsistent_response": Row("inconsistent_response"),
    "rest.invalid_client": Row("invalid_client_identifier"),
    "rest.malformed_head": Row(INTERNAL),
    "rest.malformed_target": Row(INTERNAL),
    "rest.unknown_method": Row(INTERNAL),
    "soap.action": Row("invalid_soap_action"),
    "soap.content_type": Row("invalid_content_type"),
    "soap.encoding": Row("invalid_content_type"),
    "soap.inconsistent_headers": Row("inconsistent_headers"),
    "soap.inconsistent_response": Row("inconsistent_response"),
    "soap.method": Row("invalid_http_method"),
    "soap.missing": Row("missing_soap"),
    "soap.no_envelope": Row("invalid_soap"),
    "soap.no_header": Row("missing_header"),
    "soap.no_body": Row("missing_body"),
    "soap.body": Row("invalid_body"),
    "soap.protocol_version": Row("invalid_protocol_version"),
    "soap.header_duplicate": Row("duplicate_header_field"),
    "soap.header_missing": Row("missing_header_field"),
    "soap.malformed": Row("invalid_xml"),
    "transport.extra_content": Row("invalid_message"),
    "transport.missing_head": Row("missing_rest"),
    "transport.missing_signature": Row("missing_signature"),
    "transport.ocsp_malformed": Row("io_error"),
    "transport.unexpected_part": Row("invalid_content_type"),
    "xml.refused": Row("invalid_xml", "the XML is not well-formed or uses what is not allowed"),
    "message.replayed": Row("invalid_message", "this very message came before"),
    "relay.unsupported": Row("invalid_message"),
    # metadata services
    "metadata.request": Row("invalid_request"),
    "metadata.no_description": Row(INTERNAL, "the service has no description of this kind"),
    "metadata.description_away": Row(INTERNAL, "the description of the service cannot be read"),
    # signed documents for information systems: their statuses are in exchange.signed_documents
    "asic.request": Row("invalid_message"),
    "asic.ambiguous": Row("invalid_message"),
    "asic.not_found": Row("invalid_message"),
    "asic.not_stamped": Row("timestamping_failed"),
    "log.downloads_off": Row("invalid_message"),
    "log.too_many_documents": Row("invalid_message"),
    # connections: to the other box, to the service, from the information system
    "peer.address_full": _NEIGHBOUR_AWAY,
    "peer.certificate_refused": Row("ssl_authentication_failed", "the authentication certificate of the security server is not acceptable"),
    "peer.closed": Row("network_error", "the connection ended in the middle of a message"),
    "peer.connections_full": _NEIGHBOUR_AWAY,
    "peer.displaced": _NEIGHBOUR_AWAY,
    "peer.evidence_missing": Row("ssl_authentication_failed", "no OCSP response for the authentication certificate"),
    "peer.fault": Row("invalid_message", "the other security server sent a fault"),
    "peer.not_registered": Row("ssl_authentication_failed", "the authentication certificate is not registered for this"),
    "peer.timeout": Row("network_error", "the other side was too slow"),
    "peer.tls_profile": Row("ssl_authentication_failed", "this TLS profile is not allowed to the security server"),
    "peer.tls_rejected": Row("ssl_authentication_failed", "no TLS connection with the other security server"),
    "peer.unreachable": Row("network_error", "the other security server cannot be reached"),
    "relay.tls_unready": Row("ssl_authentication_failed", "the security server has no valid authentication certificate"),
    "service.answer_malformed": Row("invalid_message", "the service's answer is no SOAP answer to this request"),
    "service.broken": Row("http_error", "the service's answer is not HTTP"),
    "service.timeout": Row("network_error", "the service did not answer in time"),
    "service.unreachable": Row("network_error", "the service cannot be reached"),
    # evidence that we could not get or that came too late
    "der.malformed": Row("signature_verification.malformed_signature", "evidence could not be read"),
    "clock.untrusted": Row(INTERNAL, "the clock of the security server is wrong"),
    "ocsp.from_future": _UNSEALED,
    "seal.evidence_away": _UNSEALED,
    "seal.evidence_gap": Row(
        "signature_verification.incorrect_validation_info", "OCSP response and time stamp of the seal are too far apart"
    ),
    "seal.not_stamped": _UNSTAMPED,
    "seal.too_old": Row("signature_verification.incorrect_validation_info", "the message was sealed too long ago"),
    "seal.unverified": Row("signature_verification.malformed_signature", "the seal does not hold"),
    "tsa.malformed": _UNSTAMPED,
    "tsa.mismatch": _UNSTAMPED,
    "tsa.rejected": _UNSTAMPED,
    "tsa.unreachable": _UNSTAMPED,
    "tsa.untrusted": _UNSTAMPED,
    "tsa.bad_request": _UNSTAMPED,
    # the message log
    "append.malformed": _UNLOGGED,
    "audit.malformed": _UNLOGGED,
    "audit.unavailable": _UNLOGGED,
    "log.busy": _UNLOGGED,
    "log.checkpoint_malformed": _UNLOGGED,
    "log.full": _UNLOGGED,
    "log.content_erased": _UNLOGGED,
    "log.index_unavailable": _UNLOGGED,
    "log.key_absent": _UNLOGGED,
    "log.locked": _UNLOGGED,
    "log.segment_unreadable": _UNLOGGED,
    "log.not_stamped": _UNSTAMPED,
    "log.replay_guard_full": _UNLOGGED,
    "log.stamps_overdue": _UNSTAMPED,
    "log.unknown_body": _UNLOGGED,
    "log.unknown_record": _UNLOGGED,
    "record.stamp_mismatch": _UNLOGGED,
    "disk.sync_failed": _UNLOGGED,
    "disk.write_failed": _UNLOGGED,
    "record.broken_link": _UNLOGGED,
    "record.seal_broken": _UNLOGGED,
    "record.body_seal_broken": _UNLOGGED,
    "record.body_unreadable": _UNLOGGED,
    # operational monitoring (sheet 8.3)
    "operations.away": Row("opmonitor.service_failed", "operational records cannot be read now"),
    "operations.invalid_request": Row("client.invalid_request"),
    "operations.too_large": Row("opmonitor.service_failed", "there are too many records in one second"),
    # the token
    "token.absent": Row("hsm_non_operational", _NOT_SIGNING),
    "token.busy": _UNSEALED,
    "token.holds_keys": _UNSEALED,
    "token.key_exists": _UNSEALED,
    "token.key_missing": _UNSEALED,
    "token.locked": _UNSEALED,
    "token.mechanism_missing": _UNSEALED,
    "token.pin_locked": _UNSEALED,
    "token.pin_rejected": _UNSEALED,
    "token.pin_unattended": _UNSEALED,
    "token.pin_not_needed": _UNSEALED,
    "token.several": _UNSEALED,
    "token.wrong_signature": _UNSEALED,
    "key.label_unknown": _UNSEALED,
    "key.algorithm_unfit": _UNSEALED,
    "key.not_granted": _UNSEALED,
    "key.certificate_unfit": _UNSEALED,
    "key.no_certificate": _UNSEALED,
    "key.not_ready": _UNSEALED,
    "key.not_yet_usable": _UNSEALED,
    "key.wrapped_malformed": _UNLOGGED,
    "key.subject_malformed": _UNSEALED,
    "seal.content_malformed": _UNSEALED,
    "seal.signing_time": _UNSEALED,
    "tls.token_key_unusable": _BOX_BROKEN,
    # the global configuration
    "configuration.absent": _UNCONFIGURED,
    "configuration.expired": _UNCONFIGURED,
    "configuration.malformed": Row("malformed_global_conf", _NO_CONFIGURATION),
    "configuration.mixed": Row("malformed_global_conf", _NO_CONFIGURATION),
    "configuration.from_future": _UNCONFIGURED,
    "configuration.rolled_back": _UNCONFIGURED,
    "configuration.untrusted": _UNCONFIGURED,
    "configuration.wrong_instance": _UNCONFIGURED,
    # our own house
    "box.configuration_awaited": _NEIGHBOUR_AWAY,
    "box.corrupt_state": _BOX_BROKEN,
    "box.error": _BOX_BROKEN,
    "box.refused": _NEIGHBOUR_AWAY,
    "box.unavailable": _NEIGHBOUR_AWAY,
    "frame.malformed": _BOX_BROKEN,
    "local.corrupt": _BOX_BROKEN,
    "process.away": _NEIGHBOUR_AWAY,
    "relay.busy": _NEIGHBOUR_AWAY,
    "caller.not_granted": _BOX_BROKEN,
    "settings.wrong": _BOX_BROKEN,
}

NEVER_OUTSIDE = (
    "access.role_missing",
    "anchor.",
    "announcement.",
    "archive.",
    "attestation.",
    "terms.",
    "broker.",
    "command.",
    "configuration.authorities_unreadable",
    "courier.",
    "description.",
    "enrolment.",
    "fetch.",
    "local.",
    "log.checkpoint_",
    "log.no_trust",
    "log.not_checkpointed",
    "log.proof_invalid",
    "log.reason_missing",
    "log.report_too_large",
    "log.tile_missing",
    "notice.",
    "outbox.",
    "sparkplug.",
    "verify.",
)
"""Kinds of work that no exchange does: enrolment, local configuration, reports, commands. Told as an internal error if ever."""
