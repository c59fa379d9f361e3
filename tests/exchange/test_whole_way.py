"""An exchange from one information system to the other and back: what comes before what, and what both logs can prove afterwards."""

from __future__ import annotations

import hashlib

import pytest

from appliance.messagelog.wire import REQUEST, RESPONSE
from appliance.net.message_protocol import request_hash
from tests.exchange.two_boxes import TwoBoxes


@pytest.mark.rule("IV.3.VI", "I.4.XV", "III.3.II")
def test_nothing_moves_before_what_it_rests_on_is_recorded_and_stamped(boxes: TwoBoxes) -> None:
    boxes.ask()

    assert boxes.witness == [
        "asker seals",
        "asker logs request",
        "message leaves",
        "provider logs request, stamped",
        "system sees POST /7?x=1",
        "provider seals",
        "provider logs response",
        "answer leaves",
        "asker logs response, stamped",
        "client gets answer",
    ]


@pytest.mark.rule("I.4.XV", "IV.2.III.A")
@pytest.mark.parametrize("body", [b"a question", b"", None], ids=["body", "empty body", "no body"])
def test_every_record_of_both_logs_is_evidence_for_a_third_party(boxes: TwoBoxes, body: bytes | None) -> None:
    boxes.ask(body=body)

    for log in (boxes.log, boxes.provider_log):
        assert [one.record.direction for one in log.kept] == [REQUEST, RESPONSE]
        assert [boxes.verified(one).verdict for one in log.kept] == ["valid", "valid"]


def test_the_client_gets_the_answer_of_the_system_and_the_system_the_question(boxes: TwoBoxes) -> None:
    request = boxes.request("PUT", "/a%2Fb?c=%20", Content_Type="application/json")

    delivery = boxes.ask(request)

    assert (delivery.response.status, delivery.body and delivery.body.inline) == (200, b"an answer")
    assert delivery.response.request_hash == request_hash(request.digest, hashlib.sha512(b"a question").digest())
    (call,) = boxes.system.calls
    assert (call.method, call.target, call.body) == ("PUT", "/a%2Fb?c=%20", b"a question")
    assert (b"Content-Type", b"application/json") in call.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_body_on_a_method_that_forwards_none_is_sealed_and_logged_but_not_forwarded(boxes: TwoBoxes, method: str) -> None:
    boxes.ask(boxes.request(method), body=b"unusual")

    assert boxes.system.calls[0].body is None
    for log in (boxes.log, boxes.provider_log):
        (record,) = log.messages(REQUEST)
        assert record.body == b"unusual"
    assert boxes.verified(boxes.provider_log.kept[0]).verdict == "valid"


def test_who_is_represented_and_which_query_it_was_stands_in_every_record(boxes: TwoBoxes) -> None:
    boxes.ask(boxes.request(x_road_id="Q-7", x_road_represented_party="GOV/9009"))

    for kept in (*boxes.log.kept, *boxes.provider_log.kept):
        assert (kept.record.query_id, kept.record.represented_party) == ("Q-7", "GOV/9009")


@pytest.mark.rule("IV.3.I")
def test_both_sides_write_the_sender_s_own_times_of_its_confirmation(boxes: TwoBoxes) -> None:
    boxes.ask()

    received = [one.record for one in (*boxes.log.kept, *boxes.provider_log.kept) if one.record.received]
    assert [one.seal.ocsp_produced_at_us for one in received] == [boxes.clock.us] * 2
    assert [one.signed_at_us for one in received] == [boxes.clock.us] * 2
