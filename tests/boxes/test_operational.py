"""Operational monitoring over real boxes: every exchange leaves a record on each side, and fails nothing."""

from __future__ import annotations

import email
import gzip
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests

from appliance.exchange.monitoring import ENVMON, HEALTH, METRICS, OPERATIONAL, OPMON
from appliance.messagelog.operations import SETTLED_S
from appliance.model.identifiers import ClientId, ServerId
from tests.boxes.conftest import Lab
from tests.boxes.soap_client import fault_code, post
from tests.exchange.test_monitoring import asked

pytestmark = pytest.mark.lab
WAIT_S = 20.0
"""The relay sends what waits every 2 s."""


def listed(lab: Lab, number: int, *words: str) -> list[dict[str, Any]]:
    done = lab.xacbe(number, "operational", "list", "--json", "--limit", "3000", *words)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def awaited(look: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "no record came"
        time.sleep(0.3)
    return found


def test_an_exchange_leaves_a_record_of_figures_on_each_side(lab: Lab) -> None:
    mark = str(uuid.uuid4())
    headers = {"X-Road-Client": lab.client, "X-Road-UserId": mark, "X-Road-Id": mark}
    answer = requests.post(lab.url(f"/eco/{mark}"), data=b"x" * 1000, headers=headers, timeout=30)
    request_id = answer.headers["x-road-request-id"]

    def of(number: int) -> list[dict[str, Any]]:
        return [one for one in listed(lab, number, "--client", lab.client) if one.get("xRequestId") == request_id]

    (asked,), (provided,) = awaited(lambda: of(1)), awaited(lambda: of(2))
    assert (asked["securityServerType"], provided["securityServerType"]) == ("Client", "Producer")
    for one in (asked, provided):
        assert (one["succeeded"], one["statusCode"], one["restMethod"]) == (True, 200, "POST")
        assert one["requestInTs"] <= one["requestOutTs"] <= one["responseInTs"] <= one["responseOutTs"]
        assert one["requestSize"] > 1000
        assert one["responseSize"] > 1000
        assert mark not in json.dumps(one)
        assert "faultCode" not in one
    addresses = [(one["clientSecurityServerAddress"], one["serviceSecurityServerAddress"]) for one in (asked, provided)]
    assert addresses[0] == addresses[1]
    assert len(set(addresses[0])) == 2


def test_a_refused_exchange_is_a_record_with_its_fault(lab: Lab) -> None:
    answer = requests.get(lab.url("/x", lab.refused), headers={"X-Road-Client": lab.client}, timeout=30)
    assert answer.status_code >= 400
    code = answer.json()["type"]

    words = ("--service", lab.refused)
    (*_, asked), (*_, provided) = awaited(lambda: listed(lab, 1, *words)), awaited(lambda: listed(lab, 2, *words))

    assert (asked["succeeded"], provided["succeeded"]) == (False, False)
    assert asked["faultCode"] == provided["faultCode"] == code
    assert "requestOutTs" not in provided


def test_the_table_is_for_people(lab: Lab) -> None:
    requests.get(lab.url("/x"), headers={"X-Road-Client": lab.client}, timeout=30)
    awaited(lambda: listed(lab, 1))

    done = lab.xacbe(1, "operational", "list", "--limit", "1")

    heading, line = done.stdout.splitlines()
    assert heading.startswith("LLEGÓ")
    assert lab.client in line


def test_a_client_asks_the_other_box_for_its_records_over_the_message_protocol(lab: Lab) -> None:
    """As PR-OPMON's collector does: sealed, logged, a gzip attachment; the newest two seconds come later."""
    requests.get(lab.url("/x"), headers={"X-Road-Client": lab.client, "X-Road-UserId": "agente-7"}, timeout=30)
    awaited(lambda: listed(lab, 2, "--client", lab.client))
    time.sleep(SETTLED_S + 1)

    answer = post(lab, question(lab, OPERATIONAL, PERIOD, OPMON))

    assert fault_code(answer) == ""
    whole = email.message_from_bytes(b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n" + answer.content)
    soap, attachment = whole.get_payload()
    assert attachment["Content-ID"] == "<operational-monitoring-data.json.gz>"
    assert attachment.get_content_type() == "application/gzip"
    told = json.loads(gzip.decompress(attachment.get_payload(decode=True)))["records"]
    assert any(one.get("messageUserId") == "agente-7" and one.get("restPath", "").startswith("/") for one in told)
    mine = lab.client.split("/")[3]
    assert all(mine in (one["clientSubsystemCode"], one["serviceSubsystemCode"]) for one in told)
    assert f"recordsCount>{len(told)}<" in soap.get_payload()


def test_health_of_another_box_is_told_and_metrics_are_refused_to_a_mere_client(lab: Lab) -> None:
    health = post(lab, question(lab, HEALTH, "", OPMON))
    assert fault_code(health) == ""
    assert "statisticsPeriodSeconds>600<" in health.text

    assert fault_code(post(lab, question(lab, METRICS, "", ENVMON))) == "server.serverproxy.access_denied"


PERIOD = "<om:searchCriteria><om:recordsFrom>1</om:recordsFrom><om:recordsTo>4000000000</om:recordsTo></om:searchCriteria>"


def question(lab: Lab, code: str, content: str, namespace: str) -> bytes:
    server = ServerId.parse(lab.box(2)["server_id"])
    return asked(ClientId.parse(lab.client), code, content, server.owner, server, namespace)
