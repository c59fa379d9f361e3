"""What the supervisor makes of the processes' words, and of their silence."""

from __future__ import annotations

import pytest

from appliance.supervision.announcements import AnnouncementError, Announcements
from appliance.supervision.wire import Announcement


def says(process: str, state: str) -> Announcement:
    return Announcement(process, 0, 7, state, [], {}, {})


def heard() -> Announcements:
    return Announcements(("relay", "archivist"), 15.0, 0.0, frozenset({"archivist"}))


def states(announcements: Announcements, now_s: float) -> dict[str, str]:
    return {one.process: one.state for one in announcements.statuses(now_s)}


def test_the_last_word_of_a_process_that_rests_does_not_grow_old() -> None:
    announcements = heard()
    announcements.take("relay", says("relay", "serving"), 1.0)
    announcements.take("archivist", says("archivist", "resting"), 1.0)

    assert states(announcements, 3600.0) == {"relay": "silent", "archivist": "resting"}
    assert {one.process: one.pid for one in announcements.statuses(2.0)} == {"relay": 7, "archivist": 0}


def test_one_that_was_at_work_and_says_nothing_more_is_silent_though_it_may_rest() -> None:
    announcements = heard()
    announcements.take("archivist", says("archivist", "resting"), 1.0)
    announcements.take("archivist", says("archivist", "serving"), 2.0)

    assert states(announcements, 18.0)["archivist"] == "silent"


def test_a_process_that_serves_others_all_the_time_cannot_hide_in_rest() -> None:
    with pytest.raises(AnnouncementError, match="does not rest"):
        heard().take("relay", says("relay", "resting"), 1.0)


def test_who_may_rest_and_was_not_heard_is_to_be_woken() -> None:
    announcements = heard()
    assert announcements.without_word(1.0) == {"archivist"}

    announcements.take("archivist", says("archivist", "waiting"), 1.0)
    assert announcements.without_word(16.0) == set()
    assert announcements.without_word(17.0) == {"archivist"}

    announcements.take("archivist", says("archivist", "resting"), 18.0)
    assert announcements.without_word(3600.0) == set()
