"""What the global configuration says of a box."""

from __future__ import annotations

import pytest

from appliance.errors import XacbeError
from appliance.model.identifiers import ClientId, ServerId
from appliance.trust.global_configuration import parse_shared_parameters
from appliance.trust.standing import standing_of
from tests.trust import pki
from tests.trust.centre import Shared

OWNER = ClientId("QROO-TEST", "GOB", "SSP")
CA = pki.ca()


def stated(elements: str, server: ServerId) -> str:
    extension = f'<x:xacbe xmlns:x="urn:xacbe:configuration:1">{elements}</x:xacbe>'
    return parse_shared_parameters(Shared(ca=CA, extension=extension).xml(), 6).standing_of(server)


@pytest.mark.rule("II.2.XIV", "III.4")
@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ('<x:standing memberClass="GOB" memberCode="SSP">suspended</x:standing>', "suspended"),
        ('<x:standing memberClass="GOB" memberCode="SSP" serverCode="ss1">terminated</x:standing>', "terminated"),
        ('<x:standing memberClass="GOB" memberCode="SSP" serverCode="ss2">terminated</x:standing>', None),
        ('<x:standing memberClass="GOB" memberCode="FGE">suspended</x:standing>', None),
        (
            '<x:standing memberClass="GOB" memberCode="SSP">terminated</x:standing>'
            '<x:standing memberClass="GOB" memberCode="SSP" serverCode="ss1">suspended</x:standing>',
            "terminated",
        ),
    ],
)
def test_a_box_stands_as_its_member_and_itself_are_said_to(elements: str, expected: str | None) -> None:
    server = ServerId(OWNER, "ss1")
    assert stated(elements, server) == (expected or "registered")


def test_a_box_that_is_not_listed_is_absent() -> None:
    assert stated("", ServerId(OWNER, "nowhere")) == "absent"
    assert standing_of(True, []) == "registered"


@pytest.mark.parametrize("word", ["", "expelled"])
def test_a_word_that_nobody_knows_is_refused_with_the_whole_part(word: str) -> None:
    with pytest.raises(XacbeError, match="standing"):
        stated(f'<x:standing memberClass="GOB" memberCode="SSP">{word}</x:standing>', ServerId(OWNER, "ss1"))
