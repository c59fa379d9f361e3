"""How long the box could go on when each service falls silent: every end, its rule, and what forbids exchanges now."""

from __future__ import annotations

import msgspec
import pytest

from appliance.health.horizons import RULES, has_ended, horizons, soonest
from appliance.messagelog.wire import LogStatus
from appliance.trust.wire import Evidence, TrustStatus

H = 3_600_000_000
NOW = 100 * H
EVIDENCE = Evidence(b"", b"", b"", NOW - H, NOW - H, NOW + 8 * H)
TRUST = TrustStatus(1, NOW + 9 * H, [], [EVIDENCE], NOW + 8000 * H, "registered")
LOG = LogStatus(5, 5, 1, 100, 900, 0, None, None, 0, "open", grace_ends_us=NOW + 4 * H, full_us=NOW + 700 * H)


@pytest.mark.rule("IV.3.V", "IV.3.VI", "II.2.II")
def test_each_service_has_its_end_and_its_rule_and_the_soonest_comes_first() -> None:
    found = horizons(NOW, TRUST, LOG, ("tsa",))

    assert [(one.service, one.rule, one.ends_us, one.silent) for one in found] == [
        ("tsa", "IV.3.VI", NOW + 4 * H, True),
        ("ocsp", "IV.3.V", NOW + 7 * H - 600_000_000, False),
        ("configuration", "II.2.II", NOW + 9 * H, False),
        ("disk", "I.4.XV", NOW + 700 * H, False),
        ("certificates", "IV.3.II", NOW + 8000 * H, False),
        ("update", "II.2.XI", None, False),
    ]
    assert soonest(found) == found[0]
    assert not any(has_ended(one, NOW) for one in found)


def test_a_stamp_must_still_fit_the_ocsp_response_at_hand() -> None:
    old = msgspec.structs.replace(
        TRUST, evidence=[msgspec.structs.replace(EVIDENCE, produced_at_us=NOW - 6 * H, this_update_us=NOW - 6 * H)]
    )

    ends = {one.service: one.ends_us for one in horizons(NOW, old, LOG)}

    assert ends["tsa"] == ends["ocsp"] == NOW + 2 * H - 600_000_000


@pytest.mark.rule("IV.3.VI")
def test_a_grace_of_nothing_forbids_nothing_while_the_authorities_answer() -> None:
    none = msgspec.structs.replace(LOG, grace_ends_us=NOW)

    answering, silent = ({one.service: one for one in horizons(NOW, TRUST, none, names)}["tsa"] for names in ((), ("tsa",)))

    assert not has_ended(answering, NOW)
    assert has_ended(silent, NOW)


def test_without_a_word_of_the_processes_nothing_but_disk_and_update_may_go_on() -> None:
    found = horizons(NOW, None, None)

    assert {one.service for one in found if has_ended(one, NOW)} == set(RULES) - {"disk", "update"}
    assert soonest(found) is None


def test_a_full_log_has_ended() -> None:
    full = msgspec.structs.replace(LOG, state="full", full_us=None)

    assert has_ended({one.service: one for one in horizons(NOW, TRUST, full)}["disk"], NOW)
