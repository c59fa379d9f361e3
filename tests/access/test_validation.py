"""What a person may write into the local configuration, and what is said where it may not be."""

from __future__ import annotations

import pytest

from appliance.access.validation import InvalidValueError, check_url


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "x." + "a" * 64 + ".gob.mx"])
def test_a_host_that_could_never_be_looked_up_is_refused_when_it_is_written(host: str) -> None:
    with pytest.raises(InvalidValueError, match="url: host .*1 to 63 characters"):
        check_url(f"http://{host}/service", "url")


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]:8080", "sistema.gob.mx", "sistema.gob.mx.", "sistema_1.tulum", "a" * 63])
def test_names_and_numbers_are_hosts(host: str) -> None:
    check_url(f"https://{host}/service", "url")
