"""The one catalogue: every key that code uses is there, in both languages, with the same facts."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from appliance.errors import XacbeError
from appliance.supervision.states import ADVICE, BoxState
from appliance.texts import TEXTS, refusal, set_language
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


def test_every_explained_kind_is_one_that_code_raises() -> None:
    sources = "\n".join(file.read_text() for folder in ("appliance", "provisioning") for file in (ROOT / folder).rglob("*.py"))
    for key in TEXTS:
        if key.startswith("kind."):
            assert f'"{key.removeprefix("kind.")}"' in sources, key


def test_a_refusal_is_its_kind_what_it_means_and_the_detail() -> None:
    set_language("es")
    assert refusal("token.key_exists", "tls-peer") == "token.key_exists: la clave ya existe y nunca se sobrescribe (tls-peer)"
    assert refusal("token.key_exists", str(XacbeError(kind="token.key_exists"))).endswith("sobrescribe")
    assert refusal("a.kind_of_no_text", "why") == "a.kind_of_no_text: why"


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
