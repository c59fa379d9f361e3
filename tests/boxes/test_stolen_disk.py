"""T52: whoever steals a box's disk without its token reads nothing that was said, and no names of who asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.boxes.conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.case("T52"), pytest.mark.rule("IV.2.III.C")]

CANARY = "canario-7f31-de-una-victima"


def test_no_file_of_either_box_holds_what_was_exchanged_in_clear(lab: Lab) -> None:
    headers = {"X-Road-Client": lab.client, "X-Road-Id": f"{CANARY}-id", "X-Road-UserId": f"{CANARY}-user", "X-Own": CANARY}
    for body in (CANARY.encode(), CANARY.encode() * 20_000):  # within a frame, and in a file of its own
        answer = requests.post(lab.url(f"/eco/{CANARY}?who={CANARY}"), data=body, headers=headers, timeout=30)
        assert answer.status_code == 200
        assert CANARY in answer.text or len(answer.content) > len(body)

    seen = 0
    for number in (1, 2):
        found = lab.records(number, "--id", f"{CANARY}-id")
        assert len(found) == 4  # the log itself can tell: two requests, two answers
        for file in Path(lab.box(number)["state"]).rglob("*"):
            if file.is_file():
                seen += 1
                assert CANARY.encode() not in file.read_bytes(), file
    assert seen > 40
