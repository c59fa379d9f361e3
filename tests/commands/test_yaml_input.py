"""OpenAPI in YAML becomes the JSON that it means, and what YAML can do beyond JSON is refused."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access import catalogue
from appliance.access.catalogue import DescriptionError
from appliance.commands.yaml_input import VALUES_MAX, as_json

DESCRIPTION = b"""\
openapi: 3.1.0
info: {title: "Incidentes", version: "1.0"}
servers:
  - url: https://sistema.interno/api
paths:
  /incidentes/{folio}:
    get:
      summary: |
        De una
        o dos l\xc3\xadneas
      deprecated: false
      responses:
        200: {description: s\xc3\xad, x-desde: 2020-01-01, x-yes: yes, x-nada: ~, x-n: 1.5}
    delete: {}
"""
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
"""YAML knows neither control characters nor the pairs of `\\u` escapes that JSON writes the rarer characters with."""
SECONDS_MAX = 10.0
"""Some are 2 MB; usual are milliseconds."""


def test_a_description_in_yaml_gives_the_endpoints_that_it_gives_in_json() -> None:
    document = as_json(DESCRIPTION)

    assert catalogue.endpoints_of(document) == (("DELETE", "/incidentes/*"), ("GET", "/incidentes/*"))
    said = json.loads(document)["paths"]["/incidentes/{folio}"]["get"]
    assert said["summary"] == "De una\no dos líneas\n"
    assert said["deprecated"] is False
    assert said["responses"] == {"200": {"description": "sí", "x-desde": "2020-01-01", "x-yes": "yes", "x-nada": None, "x-n": 1.5}}
    assert json.loads(catalogue.rewritten_description(document))["servers"] == [{"url": "/api"}]


def test_json_stays_the_bytes_that_it_is() -> None:
    document = b'\xef\xbb\xbf {"openapi": "3.0.0", "paths": {}}'

    assert as_json(document) is document


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_json_says_reads_the_same_as_yaml(value: object) -> None:
    written = b"- " + json.dumps(value, ensure_ascii=False).encode()  # JSON is YAML; the dash keeps it from being taken for JSON itself

    assert json.loads(as_json(written)) == [value]


HOSTILE = {
    "an alias": b"a: &x [1]\nb: *x",
    "a bomb of aliases": b"a: &a [x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (at + 1, at + 1, at, at) for at in range(97, 120)),
    "an object": b"!!python/object/apply:os.system ['true']",
    "a tag inside": b"openapi: !!binary 3.0.0",
    "a key twice": b"a: 1\na: 2",
    "a key that is a list": b"? [a]\n: 1",
    "two documents": b"a: 1\n---\nb: 2\n",
    "deep nesting": b"- " * 1000 + b"x",
    "deeper nesting": b"- " * 1_000_000,
    "too many values": b"- 1\n" * (VALUES_MAX + 1),
    "broken": b"a: b: c:",
    "a control character": b"a: \x01",
    "not UTF-8": b"a: \xff\xfe\xfd",
}


@pytest.mark.case("T05")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_more_than_json_is_refused_in_bounded_time(name: str) -> None:
    began = time.monotonic()

    with pytest.raises(DescriptionError):
        as_json(HOSTILE[name])
    assert time.monotonic() - began < SECONDS_MAX
