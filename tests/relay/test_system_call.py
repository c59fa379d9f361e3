"""What an information system is sent: the configured place and the caller's own path, byte for byte."""

from __future__ import annotations

import pytest

from appliance.net.message_protocol import service_url
from appliance.relay.system_call import _head, _place
from tests.fakes.exchange import body_of

PLACES = [
    # service URL, what follows the service code, target, host, port, Host header
    ("http://10.0.0.1", "", "/", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1", "?a=1", "/?a=1", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1:8090", "/7?x=1", "/7?x=1", "10.0.0.1", 8090, "10.0.0.1:8090"),
    ("http://10.0.0.1/base", "/7", "/base/7", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base/", "/7", "/base/7", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base/", "", "/base/", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base", "?q", "/base?q", "10.0.0.1", 80, "10.0.0.1"),
    ("https://sistema.gob.mx", "/a", "/a", "sistema.gob.mx", 443, "sistema.gob.mx"),
    ("HTTPS://Sistema.gob.mx:8443/B", "/a", "/B/a", "sistema.gob.mx", 8443, "Sistema.gob.mx:8443"),
    ("http://[::1]:81/b", "/a", "/b/a", "::1", 81, "[::1]:81"),
    # nothing is decoded, tidied or resolved
    ("http://h/b", "/a%2Fb/%C3%A9//c/./;v=1?x=%20&y=a+b??", "/b/a%2Fb/%C3%A9//c/./;v=1?x=%20&y=a+b??", "h", 80, "h"),
    ("http://h", "/a:b@c/http://other/", "/a:b@c/http://other/", "h", 80, "h"),
    ("http://h", "//other.gob.mx/a", "//other.gob.mx/a", "h", 80, "h"),
]


@pytest.mark.parametrize(("url", "target", "expected", "host", "port", "authority"), PLACES)
def test_the_place_is_the_configured_one_and_the_path_the_caller_s(
    url: str, target: str, expected: str, host: str, port: int, authority: str
) -> None:
    place = _place(service_url(url, target))

    assert (place.target, place.host, place.port, place.authority) == (expected, host, port, authority)
    assert place.secure == url.lower().startswith("https")


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, None),
        ("DELETE", None, None),
        ("POST", None, b"0"),
        ("PUT", None, b"0"),
        ("PATCH", None, b"0"),
        ("POST", b"", b"0"),
        ("POST", b"abc", b"3"),
    ],
)
def test_a_length_is_stated_where_a_body_is_or_could_be(method: str, body: bytes | None, length: bytes | None) -> None:
    head = _head(method, _place("http://h:1/a"), [(b"X-A", b"\xc3\xa9"), (b"X-a", b" twice ")], None if body is None else body_of(body))

    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert lines[:4] == [method.encode() + b" /a HTTP/1.1", b"Host: h:1", b"X-A: \xc3\xa9", b"X-a:  twice "]
    assert lines[4:] == ([] if length is None else [b"Content-Length: " + length])
