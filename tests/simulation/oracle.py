"""Judgements about seals and their times that share nothing with the product but the bytes: XML by lxml, OCSP by cryptography, time stamps
by asn1crypto, and what the tokens remember that they signed.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from asn1crypto import cms, tsp
from cryptography.x509 import ocsp
from lxml import etree

from tests.simulation.logs import Logged

_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_XADES = "{http://uri.etsi.org/01903/v1.3.2#}"
EIGHT_HOURS = timedelta(hours=8)


def _signed_info(document: bytes) -> bytes:
    """SignedInfo as it was signed: inclusive canonical XML (sheet 4.3)."""
    found = etree.fromstring(document).find(f".//{_DS}SignedInfo")
    if found is None:
        return b""
    return bytes(etree.tostring(found, method="c14n", exclusive=False))


def why_not_sealed(logged: Logged, signed_by_sender: set[bytes]) -> str:
    """Why the sender's token never signed this very message with this very body; empty: it did."""
    try:
        return _why_not_sealed(logged, signed_by_sender)
    except etree.XMLSyntaxError as error:
        return f"its seal is not XML: {error}"


def _why_not_sealed(logged: Logged, signed_by_sender: set[bytes]) -> str:
    if hashlib.sha512(_signed_info(logged.signature)).digest() not in signed_by_sender:
        return "its signature is none that the sender's token made"
    digests = {_text(logged.message)} | ({_text(logged.body)} if logged.body else set())
    if logged.chain_result is None:
        return "" if digests <= _values(logged.signature) else "the signature is over something else"
    if _text(logged.chain_result) not in _values(logged.signature):
        return "the signature is over another hash chain result"
    missing = digests - _values(logged.chain or b"<none/>")
    return "the hash chain does not name what was delivered" if missing else ""


def _text(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def _values(document: bytes) -> set[str]:
    return {(one.text or "").strip() for one in etree.fromstring(document).iter(f"{_DS}DigestValue")}


def gap(logged: Logged, token: bytes) -> timedelta:
    """The largest distance between a time of the seal's OCSP response and its time stamp; of what is no seal none at all."""
    stamped = stamped_at(token)
    try:
        values = [one.text or "" for one in etree.fromstring(logged.signature).iter(f"{_XADES}EncapsulatedOCSPValue")]
    except etree.XMLSyntaxError:
        return timedelta(0)
    moments: list[datetime] = []
    for value in values:
        response = ocsp.load_der_ocsp_response(base64.b64decode(value))
        moments += [response.produced_at_utc, response.this_update_utc]
    return max((abs(stamped - one) for one in moments), default=timedelta(0))


def stamped_at(token: bytes) -> datetime:
    info = cms.ContentInfo.load(token)["content"]["encap_content_info"]["content"].parsed
    assert isinstance(info, tsp.TSTInfo)
    moment: datetime = info["gen_time"].native
    return moment.astimezone(UTC)


def digest_of(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()
