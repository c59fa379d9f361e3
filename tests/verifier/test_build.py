"""One file that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import SettingsError
from appliance.seal.codes import CODES
from appliance.texts import TEXTS
from provisioning.verifier import build as page_build
from provisioning.verifier.build import build, fingerprint
from provisioning.verifier.texts import PAGE_TEXTS

PAGE = build().decode()
SCRIPT = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)


def test_the_same_sources_give_the_same_page() -> None:
    assert build() == build()
    assert len(PAGE) < 200_000


def test_the_policy_forbids_everything_but_the_script_and_the_style_that_were_built_in() -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', PAGE)
    (style,) = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in (SCRIPT[0], style)]

    assert len(SCRIPT) == 1
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}';")
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


def test_nothing_is_referred_to_outside_the_page() -> None:
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", PAGE, flags=re.DOTALL)

    assert not re.search(r"\b(src|href|action)=", markup)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|eval)\b|\bimport\s*\(", SCRIPT[0])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment", SCRIPT[0])


def test_every_text_that_the_page_asks_for_is_there_in_both_languages() -> None:
    asked = set(re.findall(r'(?:say\(|data-text=|\[)"((?:page|verify|fact)\.[a-z_.]+)"', PAGE))

    assert asked - {"page.trust", "page.verdict"} <= {**TEXTS, **PAGE_TEXTS}.keys()
    assert len(asked) > 30
    for step in ("passed", "failed", "skipped", "undecided", "not_reached"):
        assert f"page.step.{step}" in PAGE_TEXTS
    for kind in (*CODES, "verify.unsupported_here", "verify.too_large_here"):
        assert f"verify.reason.{kind}" in {**TEXTS, **PAGE_TEXTS}


def test_trust_material_is_built_in_and_cannot_end_its_element(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "<").mkdir()
    (tmp_path / "folder" / "<" / "script>").write_bytes(b"</script>")
    (tmp_path / "anchor.xml").write_bytes(b"<anchor/>")

    page = build([tmp_path / "anchor.xml", tmp_path / "folder"]).decode()

    (embedded,) = re.findall(r'id="embedded">(.*?)</script>', page, re.DOTALL)
    assert [(one["name"], base64.b64decode(one["data"])) for one in json.loads(embedded)] == [
        ("anchor.xml", b"<anchor/>"),
        ("folder/</script>", b"</script>"),
    ]


def test_trust_material_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_build, "EMBEDDED_BYTES_MAX", 8)
    (tmp_path / "large").write_bytes(b"123456789")

    with pytest.raises(SettingsError):
        build([tmp_path / "large"])


def test_the_command_writes_the_page_and_its_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "verify.html"

    done = subprocess.run([sys.executable, "-m", "provisioning", "verify", "--html", str(file)], capture_output=True, text=True, check=True)

    assert file.read_bytes() == PAGE.encode()
    assert done.stdout.splitlines()[-1] == f"SHA-256 {fingerprint(PAGE.encode())}"
