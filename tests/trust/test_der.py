"""The strict reader of DER: what it takes, and that it never breaks."""

from __future__ import annotations

import pytest
from asn1crypto import core
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.trust import der
from appliance.trust.der import DerError


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing"),
        (b"\x30", "no length"),
        (b"\x30\x80\x00\x00", "indefinite length"),
        (b"\x04\x81\x05hello", "length not in its shortest form"),
        (b"\x04\x82\x00\x05hello", "length with a leading zero"),
        (b"\x04\x85\x00\x00\x00\x00\x05hello", "length of five bytes"),
        (b"\x04\x05hell", "cut off"),
        (b"\x04\x04hello", "a byte after the end"),
        (b"\x1f\x20\x00", "tag of two bytes"),
    ],
)
def test_what_is_not_der_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DerError):
        der.parse(data, 1024)


def test_more_than_allowed_is_refused_before_it_is_read() -> None:
    with pytest.raises(DerError):
        der.parse(der.encode(der.OCTET_STRING, bytes(100)), 50)


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("19700101000000Z", 0),
        ("19700101000001.5Z", 1_500_000),
        ("19700101000000.0000019Z", 1),
        ("19691231235960Z", 0),
        ("20261231235960Z", 1_798_761_600_000_000),
    ],
)
@pytest.mark.case("T20")
def test_times_are_read_to_the_microsecond_and_leap_seconds_are_the_next_second(text: str, expected_us: int) -> None:
    assert der.parse(der.encode(der.GENERALIZED_TIME, text.encode()), 99).time_us() == expected_us


@pytest.mark.case("T20")
@pytest.mark.parametrize(
    "text", ["19700101000000", "19700101000000+0000", "19700230000000Z", "197001010000Z", "19700101000000.Z", "", "١9700101000000Z"]
)
def test_a_time_without_utc_or_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(DerError):
        der.parse(der.encode(der.GENERALIZED_TIME, text.encode()), 99).time_us()


@given(st.integers(-(1 << 200), 1 << 200))
@example(-128)
@example(-129)
@example(128)
def test_integers_are_what_another_encoder_writes(number: int) -> None:
    encoded = der.encode_integer(number)

    assert encoded == core.Integer(number).dump()
    assert der.parse(encoded, 99).integer() == number


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers_are_what_another_encoder_writes(arcs: list[int], first: int, second: int) -> None:
    dotted = ".".join(map(str, [first, second, *arcs[:2]]))
    encoded = der.encode_oid(dotted)

    assert encoded == core.ObjectIdentifier(dotted).dump()
    assert der.parse(encoded, 99).oid() == dotted


@given(st.binary(max_size=40))
def test_any_bytes_give_an_element_or_our_error(data: bytes) -> None:
    try:
        element = der.parse(data, 1024)
        assert element.encoded == data
        for reading in (element.children, element.integer, element.octets, element.oid, element.time_us):
            try:
                reading()
            except DerError:
                continue
    except DerError:
        return
