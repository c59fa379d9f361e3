"""One network of institutions for all tests of exchanges: keys and certificates are made once, boxes anew for each test."""

from __future__ import annotations

import pytest

from tests.exchange.institutions import Network
from tests.exchange.two_boxes import TwoBoxes


@pytest.fixture(scope="session")
def network() -> Network:
    return Network()


@pytest.fixture
def boxes(network: Network) -> TwoBoxes:
    return TwoBoxes(network)
