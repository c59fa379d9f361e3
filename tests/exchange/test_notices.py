"""A withdrawal notice on its way: an ordinary sealed message, taken by the box itself and by nobody's information system."""

from __future__ import annotations

import msgspec
import pytest

from appliance.exchange import notices
from appliance.exchange.ports import Body
from appliance.messagelog.wire import NOTICE_CODE, NoticeItem
from appliance.net.message_protocol import RestRequest, RestResponse, request_from_system
from tests.exchange.two_boxes import TwoBoxes
from tests.fakes.exchange import ReadyBody, body_of

ITEM = NoticeItem(7, "ours", "Q-1", "r", "request", "client", "A/B/C/D", "A/B/C/E/s", 1_795_435_200_000_000, 1_795_464_000_000_000)


def notice(boxes: TwoBoxes) -> RestRequest:
    asker, provider = boxes.network.asker.client, boxes.network.provider.client
    headers = [(b"X-Road-Client", asker.encoded().encode()), notices.CONTENT_TYPE]
    return request_from_system(b"POST", f"/r1/{provider.encoded()}/{NOTICE_CODE}".encode(), headers, request_id="1", generated_id="N-1")


def sent(boxes: TwoBoxes, content: bytes) -> tuple[int, dict[str, object]]:
    delivery = boxes.ask(notice(boxes), ReadyBody(content))
    assert isinstance(delivery.response, RestResponse)
    assert delivery.body is not None
    return delivery.response.status, msgspec.json.decode(delivery.body.inline or b"", type=dict[str, object])


@pytest.mark.rule("IV.3.VI")
def test_a_notice_is_sealed_logged_stamped_and_taken_without_any_right(boxes: TwoBoxes) -> None:
    boxes.rights, boxes.services = [], []
    boxes.desk.known = {"Q-1"}

    assert sent(boxes, notices.document("x", [ITEM], for_peer=True)) == (200, {"known": 1})

    assert boxes.desk.taken == [(str(boxes.network.asker.client), str(boxes.network.provider.client), ["Q-1"])]
    assert boxes.system.calls == []
    assert [one for one in boxes.witness if "logs" in one] == [
        "asker logs request",
        "provider logs request, stamped",
        "provider logs response",
        "asker logs response, stamped",
    ]


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (notices.document("x", [ITEM], for_peer=True), 404, "notice.unknown_message"),
        (b"{}", 400, "notice.malformed"),
        (b"[" * 100_000, 400, "notice.malformed"),
        (b'{"notice":"\xf0r"}', 400, "notice.malformed"),
        (b'{"notice":"praise","reason":"","rule":"","subsystem":"","messages":[]}', 400, "notice.malformed"),
    ],
)
def test_what_it_does_not_know_or_understand_it_says(boxes: TwoBoxes, content: bytes, status: int, kind: str) -> None:
    assert sent(boxes, content) == (status, {"kind": kind})


def test_the_record_is_ours_or_theirs_as_the_reader_sees_it() -> None:
    told = [msgspec.json.decode(notices.document("x", [ITEM], for_peer=peer))["messages"][0]["unconfirmed"] for peer in (False, True)]

    assert told == ["ours", "theirs"]
    (read,) = notices.read(body_of(notices.document("x", [ITEM], for_peer=True)))
    assert (read.query_id, read.direction, read.client, read.service) == ("Q-1", "request", "A/B/C/D", "A/B/C/E/s")


def test_a_notice_without_a_body_in_hand_is_none() -> None:
    for body in (None, Body(1 << 20, b"", file=1)):
        with pytest.raises(notices.NoticeMalformedError):
            notices.read(body)
