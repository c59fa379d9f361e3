"""AWS Signature Version 4, for one request whose payload's SHA-256 is known. Pure.

Source: AWS, "Authenticating Requests (AWS Signature Version 4)". The secret signs and is never sent; the server checks the payload's
digest, so that a request is what we sent, or is refused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

ALGORITHM, SERVICE = "AWS4-HMAC-SHA256", "s3"
EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class S3Key:
    """Access key and secret; the secret is in no representation."""

    access: str
    secret: str = field(repr=False)
    region: str = "us-east-1"


def signed_headers(
    method: str, host: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], sha256: str, key: S3Key, at: datetime
) -> dict[str, str]:
    """Headers of the request, `Authorization` among them. `path` unescaped, from the root; `at` in UTC."""
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    every = {"host": host, "x-amz-content-sha256": sha256, "x-amz-date": stamp, **{name.lower(): value for name, value in headers.items()}}
    names = ";".join(sorted(every))
    lines = [
        method,
        escaped_path(path),
        escaped_query(query),
        *(f"{name}:{every[name].strip()}" for name in sorted(every)),
        "",
        names,
        sha256,
    ]
    scope = f"{day}/{key.region}/{SERVICE}/aws4_request"
    to_sign = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256("\n".join(lines).encode()).hexdigest()])
    signing = f"AWS4{key.secret}".encode()
    for part in (day, key.region, SERVICE, "aws4_request"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, to_sign.encode(), "sha256").hex()
    return {**every, "authorization": f"{ALGORITHM} Credential={key.access}/{scope},SignedHeaders={names},Signature={signature}"}


def escaped_path(path: str) -> str:
    return quote(path, safe="/-_.~")


def escaped_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
