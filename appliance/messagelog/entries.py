"""An append as the record of a message: which of it stands in clear, and which encrypted."""

from __future__ import annotations

from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.record import MessageEntry
from appliance.messagelog.sealing import PARTY, QUERY, Epoch, GroupKey, Names
from appliance.messagelog.wire import Append, Seal
from appliance.trust.autonomy import CREATION_MARGIN_US, EVIDENCE_GAP_MAX_US


def entry_of(
    request: Append, replay_key: bytes | None, keys: DataKeys, epoch: Epoch, key: GroupKey, file_digest: bytes | None = None
) -> MessageEntry:
    """The record, with nothing in clear that may name a person."""
    represented = request.represented_party
    return MessageEntry(
        side=request.side,
        direction=request.direction,
        received=request.received,
        stamp_first=request.stamp_first,
        query_tag=keys.tag(QUERY, request.query_id),
        represented_tag=None if represented is None else keys.tag(PARTY, represented),
        names=epoch.seal_names(Names(request.query_id, request.request_id, represented, request.end_user)),
        client=request.client,
        service=request.service,
        signature=0,
        key=key.number,
        message_bytes=len(request.message),
        body_file=request.body_file is not None,
        body_bytes=request.body_bytes,
        body_digest=request.body_digest,
        ocsp_produced_at_us=request.seal.ocsp_produced_at_us,
        ends_us=ends_us(request.seal),
        replay_key=replay_key,
        signed_at_us=request.signed_at_us,
        attachment_bytes=request.attachment_bytes,
        begins_us=begins_us(request.seal),
        file_digest=file_digest,
    )


def ends_us(seal: Seal) -> int:
    """The last moment for this seal's stamp: eight hours after the older of the OCSP response's times, less our margin (IV.3.V)."""
    return min(seal.ocsp_produced_at_us, seal.ocsp_this_update_us) + EVIDENCE_GAP_MAX_US - CREATION_MARGIN_US


def begins_us(seal: Seal) -> int:
    """The first moment at which a stamp fits this seal: eight hours before the newer of the OCSP response's times (IV.3.V)."""
    return max(seal.ocsp_produced_at_us, seal.ocsp_this_update_us) - EVIDENCE_GAP_MAX_US
