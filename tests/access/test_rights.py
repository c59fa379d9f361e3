"""Access rights: allowed if and only if a tuple of the table says so, whatever tricks the path plays."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.access.paths import compiled, normalised
from appliance.access.rights import NO_RIGHT, Right, RightsTable, decide
from appliance.model.identifiers import ClientId

SERVICE = "QROO/EST/SSP/SOLOMON/incidentes"
CLIENT = ClientId("QROO", "MUN", "BENITO-JUAREZ", "SOLOMON")


def allowed(
    rights: list[Right], method: str, path: str, client: ClientId = CLIENT, groups: dict[str, frozenset[ClientId]] | None = None
) -> bool:
    return decide(rights, groups or {}, client, SERVICE, method, path).allowed


@pytest.mark.rule("I.4.III")
@pytest.mark.rule("III.3.V")
@pytest.mark.case("T15")
def test_allowed_if_and_only_if_the_tuple_is_in_the_table() -> None:
    chance = random.Random(15)  # noqa: S311  the same table in every run
    clients = [ClientId("QROO", "MUN", f"M{n}", None if n % 3 == 0 else "SUB") for n in range(20)]
    services = [f"QROO/EST/SSP/SOLOMON/s{n}" for n in range(20)]
    methods, paths = ("GET", "POST", "PUT", "DELETE", "PATCH"), ("/a", "/a/b", "/A", "/ab", "/a/")
    everything = list(itertools.product(clients, services, methods, paths))
    table = set(chance.sample(everything, 1500))
    rights = RightsTable([Right(service, str(client), method, path) for client, service, method, path in table], {})

    assert len(everything) == 10_000
    for one in everything:
        client, service, method, path = one
        assert rights.decide(client, service, method, path).allowed == (one in table)
        assert not rights.decide(client, service + "x", method, path).allowed
        assert not rights.decide(client, service, method, path + "/x").allowed


@pytest.mark.case("T15")
@pytest.mark.parametrize(
    "path",
    [
        "/svc/../secret", "/svc/%2e%2e/secret", "/svc/..%2fsecret", "/svc%2f..%2fsecret", "/svc/.%2e/secret", "/svc/%252e%252e/secret",
        "/SVC/x", "/svc", "/svcx/y", "//svc/x/../../secret", "/../svc/x", "/svc/x/..;/..;/secret", "/svc/..\\secret",
        "/svc/x%2f..%2f..%2fsecret",
        "/svc/x%", "/svc/x%zz", "/x/svc/y", "svc/x", "", "/", "/svc/x\\..\\..\\secret",
    ],
)  # fmt: skip
def test_a_prefix_trick_does_not_leave_what_was_granted(path: str) -> None:
    assert not allowed([Right(SERVICE, str(CLIENT), "GET", "/svc/*")], "GET", path)
    assert not allowed([Right(SERVICE, str(CLIENT), "GET", "/svc/**")], "GET", path)


@pytest.mark.parametrize(
    "path", ["/..", "/../admin", "/x/../../admin", "/%2e%2e/admin", "/a%2fb/../../admin", "/%252e%252e/x", "..", "/x/..%00"]
)
def test_even_a_right_to_everything_does_not_leave_the_service(path: str) -> None:
    assert not allowed([Right(SERVICE, str(CLIENT))], "GET", path)


@pytest.mark.parametrize(
    ("path", "glob"),
    [
        ("/incidentes/123", "/incidentes/*"), ("/incidentes/%C3%A1rbol", "/incidentes/árbol"), ("/a/./b", "/a/b"), ("/a//b", "/a/b"),
        ("/a/x/../b", "/a/b"), ("/literal%2A", "/literal\\*"), ("/a/b/c", "/a/**"), ("/fetch/http%3A%2F%2Fx", "/fetch/**"), ("", "**"),
    ],
)  # fmt: skip
def test_paths_are_decoded_and_normalised_before_they_are_matched(path: str, glob: str) -> None:
    assert allowed([Right(SERVICE, str(CLIENT), "get", glob)], "GET", path)


@given(st.text("ab/*\\", max_size=9), st.text("ab/*", max_size=10))
@example("**/bar/**", "a/b/bar/c")
@example("**\\*", "/what/ever*")
@example("***", "match/anything")
@example("/*/", "/a/b/")
def test_globs_match_as_their_definition(pattern: str, path: str) -> None:
    assert compiled(pattern)(path) == by_definition(pattern, path)


def by_definition(pattern: str, path: str) -> bool:
    """The glob, tried in every way: correct and slow."""
    if not pattern:
        return not path
    if pattern.startswith("**"):
        rest = pattern.lstrip("*")
        return any(by_definition(rest, path[cut:]) for cut in range(len(path) + 1))
    if pattern[0] == "*":
        ends = next((at for at, letter in enumerate(path) if letter == "/"), len(path))
        return any(by_definition(pattern[1:], path[cut:]) for cut in range(ends + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return path[:1] == pattern[0] and by_definition(pattern[1:], path[1:])


@pytest.mark.parametrize("pattern", ["*a" * 20 + "b", "**a" * 20 + "b", "/**/*a*b", "**a*a*a*b", "/" + "*/" * 30 + "**"])
def test_no_glob_makes_a_long_path_slow(pattern: str) -> None:
    path = "/" + "a" * 60_000
    began = time.perf_counter()
    assert not compiled(pattern)(path)
    assert time.perf_counter() - began < 1


@given(st.text("/.%2eEfFaA5c", max_size=14))
def test_a_normalised_path_is_stable_and_without_dots(path: str) -> None:
    plain = normalised(path)
    if plain is not None:
        assert ".." not in plain
        assert "%" in plain or normalised(plain) == plain


def test_a_member_does_not_cover_its_subsystems_nor_a_subsystem_its_member() -> None:
    member = CLIENT.member
    assert not allowed([Right(SERVICE, str(member))], "GET", "/", CLIENT)
    assert not allowed([Right(SERVICE, str(CLIENT))], "GET", "/", member)


def test_a_group_covers_its_members_exactly() -> None:
    member, outside = CLIENT.member, ClientId("QROO", "MUN", "TULUM", "SOLOMON")
    groups = {"seguridad": frozenset({member}), "otros": frozenset({outside})}
    rights = [Right(SERVICE, "GROUP:seguridad", "GET", "/a")]

    assert allowed(rights, "GET", "/a", member, groups)
    assert not allowed(rights, "POST", "/a", member, groups)
    assert not allowed(rights, "GET", "/a", CLIENT, groups)
    assert not allowed(rights, "GET", "/a", outside, groups)
    assert not allowed([Right(SERVICE, "GROUP:missing")], "GET", "/a", member, groups)


def test_names_with_slashes_inside_are_not_other_names() -> None:
    trick = ClientId("QROO", "MUN", "BENITO-JUAREZ/SOLOMON")
    assert str(trick) == str(CLIENT)
    assert not allowed([Right(SERVICE, str(CLIENT))], "GET", "/", trick)
    group_trick = ClientId("GROUP:a", "MUN", "X")
    assert not allowed([Right(SERVICE, "GROUP:a/MUN/X")], "GET", "/", group_trick)


def test_a_refusal_says_its_kind_and_keeps_the_detail_for_the_audit() -> None:
    decision = decide([Right(SERVICE, str(CLIENT), "GET", "/a")], {}, CLIENT, SERVICE, "GET", "/b")
    assert (decision.allowed, decision.reason, decision.detail) == (False, NO_RIGHT, "no right for this method and path")


def test_calls_without_path_count_only_rights_to_the_whole_service() -> None:
    table = RightsTable([Right(SERVICE, str(CLIENT), "POST", "/a")], {})
    assert not table.decide_whole(CLIENT, SERVICE).allowed
    assert table.may_use_any(CLIENT, SERVICE)
    assert RightsTable([Right(SERVICE, str(CLIENT))], {}).decide_whole(CLIENT, SERVICE).allowed


def test_a_decision_with_5000_rights_is_quick() -> None:
    rights = [Right(SERVICE, f"QROO/MUN/M{n}/SUB", "GET", "/incidentes/*") for n in range(5000)]
    table, client = RightsTable(rights, {}), ClientId("QROO", "MUN", "M2500", "SUB")
    best = min(_seconds_a_decision(table, client) for _ in range(5))
    assert best < 20e-6  # 2 us on a free core; the bound leaves room for a busy one


def _seconds_a_decision(table: RightsTable, client: ClientId) -> float:
    began = time.perf_counter()
    for _ in range(1000):
        assert table.decide(client, SERVICE, "GET", "/incidentes/1234").allowed
    return (time.perf_counter() - began) / 1000
