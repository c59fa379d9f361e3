"""Who gives up a place when a listener is full."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.crowd import Crowd

pytestmark = pytest.mark.case("T43")


class Guest:
    def __init__(self, idle: bool = True) -> None:
        self.idle = idle


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 9)), max_size=80))
def test_the_oldest_idle_one_of_who_holds_most_gives_way_and_nobody_to_an_address_with_as_many(steps: list[tuple[str, bool, int]]) -> None:
    crowd: Crowd[Guest] = Crowd()
    here: list[tuple[str, Guest]] = []
    for address, idle, number in steps:
        if number < 7 or not here:
            here.append((address, Guest(idle)))
            crowd.enter(*here[-1])
        else:
            gone = here.pop(number % len(here))
            assert crowd.leave(*gone)
            assert not crowd.leave(*gone)
        held = {one: [guest for other, guest in here if other == one] for one in "abcd"}
        assert (len(crowd), set(crowd)) == (len(here), {guest for _, guest in here})
        for newcomer in "abcde":
            most = [len(held[one]) for one in "abcd" if len(held[one]) > len(held.get(newcomer, ())) and any(g.idle for g in held[one])]
            place = crowd.yields_to(newcomer)
            assert (place is None) == (not most)
            if place is not None:
                theirs, guest = place
                assert len(held[theirs]) == max(most)
                assert guest is next(each for each in held[theirs] if each.idle)


def test_a_crowd_in_which_everybody_talks_is_not_searched_for_ever() -> None:
    crowd: Crowd[Guest] = Crowd()
    for number in range(20_000):
        crowd.enter(f"{number % 50}", Guest(idle=False))

    began = time.process_time()
    assert crowd.yields_to("new") is None
    assert time.process_time() - began < 0.05
