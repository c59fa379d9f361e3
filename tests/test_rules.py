"""Prints which tests hold which rule of the protocol and which case of the reliability plan (`pytest -s`, with all tests)."""

from __future__ import annotations

import re

import pytest

from tests.conftest import MARKED

RULE = re.compile(r"[IV]+\.\d+(?:\.[IVX]+(?:\.[A-Za-z])?)?(?:-[IVX]+)?|T\d\d")


def test_every_marker_names_a_rule_or_a_case_and_the_table_is_printed(request: pytest.FixtureRequest) -> None:
    held: dict[str, list[str]] = {}
    for _, name, test in request.config.stash[MARKED]:
        held.setdefault(name, []).append(test)

    for name in sorted(held):
        print(f"{name}:")
        for test in sorted(set(held[name])):
            print(f"    {test}")

    assert [name for name in held if not RULE.fullmatch(name)] == []
