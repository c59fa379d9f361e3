"""The one catalogue: every key that code uses is there, in both languages, with the same facts."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from appliance.supervision.states import ADVICE, BoxState
from appliance.texts import TEXTS
from appliance.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
CALL = re.compile(r"""\btext\(\s*(f?)"([^"]+)\"""")
HELP = re.compile(r'^HELP = "([^"]+)"', re.MULTILINE)


def used() -> list[tuple[str, str]]:
    found = []
    for folder in ("appliance", "provisioning"):
        for file in (ROOT / folder).rglob("*.py"):
            source = file.read_text()
            found += [(key, form) for form, key in CALL.findall(source)]
            found += [(key, "") for key in HELP.findall(source)]
    return found


def test_every_key_in_code_is_in_the_catalogue() -> None:
    for key, form in used():
        if form:
            pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", r"[A-Za-z_0-9.]+", re.escape(key)))
            assert any(pattern.fullmatch(known) for known in TEXTS), key
        else:
            assert key in TEXTS, key


def test_every_state_and_every_advice_has_its_text() -> None:
    for state in BoxState:
        assert f"state.{state}" in TEXTS
        assert f"fleet_state.{state}" in TEXTS
    assert set(ADVICE) <= set(TEXTS)


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_say_the_same_facts(key: str) -> None:
    spanish, english = TEXTS[key]
    assert spanish.strip()
    assert english.strip()
    assert _facts(spanish) == _facts(english)


def _facts(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
