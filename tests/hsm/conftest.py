"""Tokens of every maker: the same tests run over all of them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.hsm.token import Token
from tests.hsm import parts
from tests.hsm.parts import KINDS, TokenProcess


@pytest.fixture(autouse=True)
def clean_error_queue() -> Iterator[None]:
    """Modules loaded into this process (SoftHSM2 asks for an engine that is not there) leave errors in OpenSSL's queue, and Python's `ssl`
    takes the last one for its own when it next reads certificates. In a box, no process that loads a module uses `ssl`."""
    yield
    clear = ctypes.CDLL("libcrypto.so.3").ERR_clear_error
    clear.restype = None
    clear()


@pytest.fixture(params=KINDS)
def token_process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenProcess]:
    with parts.running(parts.plan(request.param, tmp_path / "token")) as process:
        yield process


@pytest.fixture
def token(token_process: TokenProcess, tmp_path: Path) -> Iterator[Token]:
    """Logged in."""
    with parts.opened(token_process.plan, tmp_path / "keys") as opened:
        opened.login(parts.PIN)
        yield opened
