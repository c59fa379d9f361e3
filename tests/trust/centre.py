"""A centre for the tests of this folder: configuration documents signed by a test key, as bytes."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import hashes

from tests.trust import pki
from tests.trust.pki import NOW, Holder

SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"
ECDSA = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512"
NAMESPACES = 'xmlns:xr="http://x-road.eu/xsd/xroad.xsd" xmlns:id="http://x-road.eu/xsd/identifiers"'
GRACE = '<x:xacbe xmlns:x="urn:xacbe:configuration:1"><x:stampGraceSeconds>{}</x:stampGraceSeconds></x:xacbe>'
AUTH_HASH = hashlib.sha256(b"authentication certificate").digest()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(kw_only=True)
class Shared:
    """What `shared-params.xml` shall say."""

    ca: Holder
    tsas: list[tuple[str, str, Holder]] = field(default_factory=list)
    instance: str = "QROO-TEST"
    ocsp_urls: tuple[str, ...] = ("http://127.0.0.1:1/ocsp",)
    responders: tuple[Holder, ...] = ()
    intermediates: tuple[Holder, ...] = ()
    source: str = ""
    maintenance: str = ""
    freshness: str = "28800"
    extension: str = ""
    client_type: str = "SUBSYSTEM"
    owner: str = "m1"

    def xml(self) -> bytes:
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><xr:conf {NAMESPACES}><instanceIdentifier>{self.instance}</instanceIdentifier>'
            f"{self.source}{self._ca()}{self._tsas()}{self._members()}{self._server()}{self._group()}"
            f"<globalSettings><memberClass><code>GOB</code><description>x</description></memberClass>"
            f"<ocspFreshnessSeconds>{self.freshness}</ocspFreshnessSeconds></globalSettings>{self.extension}</xr:conf>"
        ).encode()

    def _ca(self) -> str:
        certs = [*(f"<cert>{holder.base64}</cert>" for holder in self.responders), *([""] * len(self.ocsp_urls))]
        ocsp = "".join(f"<ocsp><url>{url}</url>{cert}</ocsp>" for url, cert in zip(self.ocsp_urls, certs, strict=False))
        lower = "".join(f"<intermediateCA><cert>{holder.base64}</cert>{ocsp}</intermediateCA>" for holder in self.intermediates)
        return (
            f"<approvedCA><name>CA</name><topCA><cert>{self.ca.base64}</cert>{ocsp}</topCA>{lower}"
            f"<certificateProfileInfo>{pki.EJBCA}</certificateProfileInfo></approvedCA>"
        )

    def _tsas(self) -> str:
        return "".join(
            f"<approvedTSA><name>{name}</name><url>{url}</url><cert>{holder.base64}</cert></approvedTSA>" for name, url, holder in self.tsas
        )

    def _members(self) -> str:
        return (
            '<member id="m1"><memberClass><code>GOB</code><description>x</description></memberClass><memberCode>SSP</memberCode>'
            '<name>Policía</name><subsystem id="s1"><subsystemCode>Solomon</subsystemCode>'
            "<subsystemName>Captura</subsystemName></subsystem>"
            '<subsystem id="s2"><subsystemCode>Geoportal</subsystemCode></subsystem></member>'
            '<member id="m2"><memberClass><code>GOB</code><description>x</description></memberClass><memberCode>FGE</memberCode>'
            "<name>Fiscalía</name></member>"
        )

    def _server(self) -> str:
        return (
            f"<securityServer><owner>{self.owner}</owner><serverCode>ss1</serverCode><address>127.0.0.2</address>"
            f"<authCertHash>{text64(AUTH_HASH)}</authCertHash><client>s1</client><client>m2</client>{self.maintenance}</securityServer>"
        )

    def _group(self) -> str:
        return (
            f'<globalGroup><groupCode>police</groupCode><description>x</description><groupMember id:objectType="{self.client_type}">'
            f"<id:xRoadInstance>{self.instance}</id:xRoadInstance><id:memberClass>GOB</id:memberClass><id:memberCode>SSP</id:memberCode>"
            f"<id:subsystemCode>Solomon</id:subsystemCode></groupMember></globalGroup>"
        )


def private(instance: str = "QROO-TEST", anchors: str = "", interval: str = "60") -> bytes:
    return (
        f"<xr:conf {NAMESPACES}><instanceIdentifier>{instance}</instanceIdentifier>{anchors}"
        f"<timeStampingIntervalSeconds>{interval}</timeStampingIntervalSeconds></xr:conf>"
    ).encode()


def anchor_sources(*sources: tuple[str, Holder]) -> str:
    return "".join(
        f"<source><downloadURL>{url}</downloadURL><verificationCert>{holder.base64}</verificationCert></source>" for url, holder in sources
    )


def anchor(*sources: tuple[str, Holder], instance: str = "QROO-TEST") -> bytes:
    return (
        f"<xr:configurationAnchor {NAMESPACES}><generatedAt>2026-11-23T00:00:00Z</generatedAt>"
        f"<instanceIdentifier>{instance}</instanceIdentifier>{anchor_sources(*sources)}</xr:configurationAnchor>"
    ).encode()


@dataclass(kw_only=True)
class Directory:
    """What the signed directory shall say. `generated`: the time in the parts' paths; empty for paths without one."""

    signer: Holder
    parts: dict[str, bytes]
    expires: datetime = NOW + timedelta(hours=9)
    generated: str = "20261123120000000000000"
    instance: str = "QROO-TEST"
    version: str = "6"
    digests: dict[str, bytes] = field(default_factory=dict)
    """Other digests than the parts have, by identifier."""
    named: Holder | None = None
    """Whose certificate hash is written; the signer's by default."""
    algorithm: str = ECDSA
    line_end: bytes = b"\r\n"

    def location(self, identifier: str) -> str:
        name = {"SHARED-PARAMETERS": "shared-params.xml", "PRIVATE-PARAMETERS": "private-params.xml"}.get(identifier, f"{identifier}.xml")
        return f"/V6/{self.generated}/{name}" if self.generated else f"/V6/{name}"

    def files(self) -> dict[str, bytes]:
        """Path -> content, for a server."""
        return {self.location(identifier): content for identifier, content in self.parts.items()}

    def signed(self) -> bytes:
        lines = ["--IN", f"Expire-date: {self.expires.isoformat().replace('+00:00', 'Z')}", f"Version: {self.version}", ""]
        for identifier, content in self.parts.items():
            digest = self.digests.get(identifier, hashlib.sha512(content).digest())
            lines += [
                "--IN",
                "Content-type: application/octet-stream",
                "Content-transfer-encoding: base64",
                f"Content-identifier: {identifier}; instance='{self.instance}'",
                f"Content-location: {self.location(identifier)}",
                f"Hash-algorithm-id: {SHA512}",
                "",
                text64(digest),
            ]
        return "\r\n".join([*lines, "--IN--", ""]).encode().replace(b"\r\n", self.line_end)

    def body(self) -> bytes:
        signed = self.signed()
        signature = pki.sign(self.signer.key, signed, hashes.SHA512())
        digest = text64(hashlib.sha512((self.named or self.signer).der).digest())
        before = "Content-Type: multipart/related; charset=UTF-8; boundary=OUT\r\n\r\n--OUT\r\n"
        before += "Content-Type: multipart/mixed; boundary=IN\r\n\r\n"
        after = [
            "",
            "--OUT",
            "Content-Type: application/octet-stream",
            "Content-Transfer-Encoding: base64",
            f"Signature-Algorithm-Id: {self.algorithm}",
            f'Verification-certificate-hash: {digest}; hash-algorithm-id="{SHA512}"',
            "",
            text64(signature),
            "--OUT--",
            "",
        ]
        return before.encode().replace(b"\r\n", self.line_end) + signed + "\r\n".join(after).encode().replace(b"\r\n", self.line_end)
