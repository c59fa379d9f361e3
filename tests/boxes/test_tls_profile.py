"""What a box of a default network offers on port 5500, seen by OpenSSL."""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import pytest

from tests.boxes.conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.rule("I.4.XVIII")]


def offered(lab: Lab, *words: str) -> str:
    """What `openssl s_client` says of the box; without a certificate no box lets it in, but the handshake shows the profile."""
    address = urlsplit(lab.box(2)["client_http"]).hostname
    command = ["openssl", "s_client", "-connect", f"{address}:5500", *words]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("-tls1_2",),
        ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384:DHE-RSA-AES256-SHA256:ECDHE-ECDSA-AES256-SHA384"),
        ("-tls1_2", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
    ],
)
def test_neither_tls_1_2_nor_cbc_is_offered(lab: Lab, words: tuple[str, ...]) -> None:
    said = offered(lab, *words)

    assert "alert protocol version" in said
    assert "Cipher is (NONE)" in said


def test_tls_1_3_is(lab: Lab) -> None:
    assert "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384" in offered(lab, "-tls1_3")
