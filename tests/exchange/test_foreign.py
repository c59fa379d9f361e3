"""Which servers may speak X-Road's TLS profile: nobody but those that the settings name."""

from __future__ import annotations

import pytest

from appliance.errors import SettingsError
from appliance.exchange.foreign import ForeignProfileError, ForeignServers
from appliance.model.identifiers import ClientId, ServerId
from appliance.settings import RelaySettings
from appliance.trust.global_configuration import SecurityServer


def server(code: str, member: str = "P1") -> SecurityServer:
    return SecurityServer(ServerId(ClientId("DEV", "COM", member), code), "10.0.0.1", frozenset(), frozenset(), None)


def test_by_default_nobody_may() -> None:
    nobody = ForeignServers(RelaySettings().foreign_servers)

    assert not nobody
    assert not nobody.among([server("SS1")])
    with pytest.raises(ForeignProfileError):
        nobody.check(server("SS1"), "TLSv1.2")
    nobody.check(server("SS1"), "TLSv1.3")


def test_those_that_are_named_may_and_others_may_not() -> None:
    foreign = ForeignServers("DEV/COM/P1/SS1  DEV/COM/a%2Fb/SS%201")

    assert foreign.among([server("SS9"), server("SS1")])
    assert not foreign.among([server("SS9")])
    foreign.check(server("SS 1", "a/b"), "TLSv1.2")
    with pytest.raises(ForeignProfileError):
        foreign.check(server("SS1", "P2"), "TLSv1.2")


def test_a_star_names_every_server() -> None:
    assert ForeignServers("*").includes(server("any"))


@pytest.mark.parametrize("spelled", ["SS1", "DEV/COM/P1", "DEV/COM/P1/SS1/more", "DEV/COM//SS1", "DEV/COM/P1/%zz", "true"])
def test_what_names_no_server_is_refused(spelled: str) -> None:
    with pytest.raises(SettingsError):
        ForeignServers(spelled)
