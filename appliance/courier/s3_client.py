"""One connection to an S3-compatible service: a signed request, its bounded answer, and its refusals by name.

Blocking, for a worker thread. TLS with name and chain checked; no proxy, no redirect: nothing that an answer names is ever asked.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.clock import Clock, from_us
from appliance.courier.errors import (
    CredentialsRefusedError,
    HostKeyWrongError,
    PlaceMissingError,
    TargetRefusedError,
    TargetUnreachableError,
)
from appliance.courier.sigv4 import EMPTY_SHA256, S3Key, escaped_path, escaped_query, signed_headers
from appliance.errors import XacbeError
from appliance.model.xml_input import XmlRefusedError, local_name, parse_xml

ANSWER_BYTES_MAX = 1 << 20
"""A list of 1,000 uploads or parts is 400 KB."""
STALL_S_MAX = 60.0
READ_BYTES = 256 << 10
_KINDS: dict[str, type[XacbeError]] = {
    "InvalidAccessKeyId": CredentialsRefusedError,
    "SignatureDoesNotMatch": CredentialsRefusedError,
    "AccessDenied": CredentialsRefusedError,
    "RequestTimeTooSkewed": CredentialsRefusedError,
    "NoSuchBucket": PlaceMissingError,
    "InternalError": TargetUnreachableError,
    "ServiceUnavailable": TargetUnreachableError,
    "SlowDown": TargetUnreachableError,
}
_STATUSES: dict[int, type[XacbeError]] = {401: CredentialsRefusedError, 403: CredentialsRefusedError, 404: PlaceMissingError}


@dataclass(frozen=True, slots=True)
class S3Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def elements(self, name: str) -> list[dict[str, str]]:
        """Every element of this name in the document, each with the text of its children. Raises TargetUnreachableError."""
        try:
            root = parse_xml(self.body, bytes_max=ANSWER_BYTES_MAX)
        except XmlRefusedError as error:
            raise TargetUnreachableError(f"the service does not speak S3: {error}") from None
        found = [element for element in root.iter() if local_name(element) == name]
        return [
            {local_name(child): (child.text or "").strip() for child in element} | {"": (element.text or "").strip()} for element in found
        ]

    def word(self, name: str) -> str:
        """Of the first such element; empty where there is none."""
        return next((one[""] for one in self.elements(name)), "")


class S3Client:
    """`endpoint`: `https://host[:port]`; `authorities`: a PEM file, or the system's."""

    def __init__(self, endpoint: str, authorities: Path | None, key: S3Key, clock: Clock) -> None:
        """Raises TargetUnreachableError."""
        parts = urlsplit(endpoint)
        self._host, self._netloc, self._key, self._clock = parts.hostname or "", parts.netloc, key, clock
        try:
            context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
        except OSError as error:
            raise TargetUnreachableError(f"{authorities}: {error.strerror}") from None
        self._connection = http.client.HTTPSConnection(self._host, parts.port or 443, timeout=STALL_S_MAX, context=context)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()

    def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> S3Answer:
        """Any status below 300, and 404 for HEAD. Raises the leaves of `courier.errors`."""
        response = self._sent(method, path, query or {}, body, headers or {})
        try:
            read = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise TargetUnreachableError(f"{self._host}: {error}") from None
        answer = S3Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)
        if answer.status >= 300 and not (method == "HEAD" and answer.status == 404):
            self.close()
            raise _refusal(answer, f"{method} {path}")
        return answer

    def pieces(self, path: str, bytes_max: int) -> Iterator[bytes]:
        """A GET, piece by piece; ends behind `bytes_max` bytes."""
        response = self._sent("GET", path, {}, b"", {})
        got = 0
        try:
            if response.status != 200:
                read = response.read(ANSWER_BYTES_MAX)
                raise _refusal(S3Answer(response.status, {}, read), f"GET {path}")
            while got <= bytes_max and (data := response.read(READ_BYTES)):
                got += len(data)
                yield data
        except (OSError, http.client.HTTPException) as error:
            raise TargetUnreachableError(f"{self._host}: {error}") from None
        finally:
            if got > bytes_max or not response.isclosed():
                self.close()

    def _sent(self, method: str, path: str, query: Mapping[str, str], body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        digest = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        at = from_us(self._clock.now_us())
        signed = signed_headers(method, self._netloc, path, query, headers, digest, self._key, at)
        target = escaped_path(path) + (f"?{escaped_query(query)}" if query else "")
        try:
            self._connection.request(method, target, body if body or method in ("PUT", "POST") else None, signed)
            return self._connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise HostKeyWrongError(f"{self._host}: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise TargetUnreachableError(f"{self._host}: {str(error) or type(error).__name__}") from None


def _refusal(answer: S3Answer, what: str) -> XacbeError:
    code = ""
    with suppress(XacbeError):
        code = answer.word("Code")
    kind = _KINDS.get(code) or _STATUSES.get(answer.status) or (TargetUnreachableError if answer.status >= 500 else TargetRefusedError)
    return kind(f"{what}: {answer.status} {code[:60]}".strip())
