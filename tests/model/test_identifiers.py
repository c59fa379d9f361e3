"""Identifiers in every form, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model.identifiers import ClientId, IdentifierError, ServerId, ServiceId, decode_part, encode_part

PART = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


@given(PART)
def test_a_part_survives_percent_encoding(part: str) -> None:
    assert decode_part(encode_part(part)) == part


@given(st.tuples(PART, PART, PART), st.none() | PART)
def test_a_client_survives_the_header_form(member: tuple[str, str, str], subsystem: str | None) -> None:
    client = ClientId(*member, subsystem)

    assert ClientId.decode(client.encoded()) == client


@given(st.tuples(PART, PART, PART, PART, PART))
def test_a_service_survives_the_header_form(parts: tuple[str, str, str, str, str]) -> None:
    service = ServiceId(ClientId(*parts[:4]), parts[4])

    assert ServiceId.decode(service.encoded()) == service


def test_a_slash_inside_a_part_is_encoded() -> None:
    assert ClientId("DEV", "COM", "12/34", "ñandú").encoded() == "DEV/COM/12%2F34/%C3%B1and%C3%BA"


def test_a_member_never_equals_its_subsystem() -> None:
    assert ClientId("DEV", "COM", "1234") != ClientId("DEV", "COM", "1234", "X")
    assert ClientId("DEV", "COM", "1234", "X").member == ClientId("DEV", "COM", "1234")


@pytest.mark.parametrize("raw", ["a b", "ñ", "%", "%2", "%zz", 'a"b', "a\nb"])
def test_a_raw_character_in_a_part_is_refused(raw: str) -> None:
    with pytest.raises(IdentifierError):
        decode_part(raw)


@pytest.mark.parametrize("text", ["", "a", "a/b", "a/b/c/d/e", "a//c", "/b/c", "a/b/c/"])
def test_a_client_with_a_wrong_number_of_parts_or_an_empty_one_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError):
        ClientId.parse(text)


def test_a_server_is_its_owner_and_its_code() -> None:
    assert str(ServerId.parse("DEV/COM/1234/SS1")) == "DEV/COM/1234/SS1"
    assert ServerId.decode("DEV/COM/12%2F34/SS1").owner == ClientId("DEV", "COM", "12/34")
