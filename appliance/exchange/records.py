"""What goes to the message log for each of the four messages of an exchange.

Pure.
"""

from __future__ import annotations

from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import Append
from appliance.net.message_protocol import RestRequest
from appliance.net.soap_protocol import SoapRequest


def record_of(request: RestRequest | SoapRequest, sealed: Sealed, *, side: str, direction: str, received: bool) -> Append:
    """The record; what came from a peer is stamped before it is acknowledged, since it is about to be delivered (IV.3.VI)."""
    body = sealed.body
    return Append(
        side=side,
        direction=direction,
        received=received,
        query_id=request.query_id,
        request_id=request.request_id,
        client=str(request.client),
        service=str(request.service),
        represented_party=request.represented_party,
        end_user=request.user_id,
        message=sealed.head,
        body=body.inline if body else None,
        body_file=body.file if body else None,
        body_bytes=body.size if body else 0,
        body_digest=body.digest if body else None,
        seal=sealed.seal,
        stamp_first=received,
        replay_key=sealed.replay_key,
        signed_at_us=sealed.signed_at_us,
        attachment_bytes=[one.size for one in body.attachments] if body else [],
    )
