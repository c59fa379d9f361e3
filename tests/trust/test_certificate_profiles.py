"""The table of sheet 5.5, row by row."""

from __future__ import annotations

import pytest

from appliance.model.identifiers import ClientId
from appliance.trust.certificate_profiles import CertificateProfileError, member_of
from tests.trust import pki

SENDER = ClientId("QROO-TEST", "GOB", "SSP", "Solomon")


def profile(short: str) -> str:
    return f"ee.ria.xroad.common.certificateprofile.impl.{short}CertificateProfileInfoProvider"


@pytest.mark.rule("IV.3.I")
@pytest.mark.parametrize(
    ("short", "subject", "expected"),
    [
        ("Ejbca", "C=QROO-TEST,O=GOB,CN=SSP", "QROO-TEST/GOB/SSP"),
        ("FiVRK", "C=FI,O=Pol,serialNumber=DEV/ss1/GOV,CN=123", "DEV/GOV/123"),
        ("FiVRK", "C=FI,O=DEV,OU=GOV,CN=123", "DEV/GOV/123"),
        ("FiVRK", "C=DEV,O=GOV,CN=123", "DEV/GOV/123"),
        ("Basic", "CN=Police,businessCategory=GOV,serialNumber=77", "QROO-TEST/GOV/77"),
        ("BasicACME", "CN=Police,businessCategory=GOV,serialNumber=77", "QROO-TEST/GOV/77"),
        ("SkKlass3", "CN=x,organizationIdentifier=NTREE-12345678", "QROO-TEST/COM/12345678"),
        ("SkKlass3", "CN=x,organizationIdentifier=GO:EE-70000000", "QROO-TEST/GOV/70000000"),
        ("SkKlass3", "CN=x,organizationIdentifier=NP:EE-80000000", "QROO-TEST/NGO/80000000"),
        ("SkKlass3", "CN=x,organizationIdentifier=VATLV-1", "QROO-TEST/NEE/VATLV-1"),
        ("SkKlass3", "CN=x,serialNumber=10000000", "QROO-TEST/COM/10000000"),
        ("SkKlass3", "CN=x,serialNumber=70000000", "QROO-TEST/GOV/70000000"),
        ("SkKlass3", "CN=x,serialNumber=90000000", "QROO-TEST/NGO/90000000"),
        ("Is", "C=IS,O=DEV,OU=GOV,CN=5,serialNumber=ss", "DEV/GOV/5"),
        ("Is", "C=DEV,O=GOV,CN=5", "DEV/GOV/5"),
        ("Fo", "C=FO,O=DEV,OU=GOV,CN=5,serialNumber=ss", "DEV/GOV/5"),
        ("SkEsteId", "CN=x,serialNumber=38001085718", "QROO-TEST/PERSON/38001085718"),
        ("Ejbca", "C=QROO-TEST,O=GOB,O=OTHER,CN=SSP", "QROO-TEST/GOB/SSP"),
    ],
)
def test_a_subject_names_its_member(short: str, subject: str, expected: str) -> None:
    certificate = pki.issue(subject).certificate

    assert str(member_of(certificate, profile(short), SENDER)) == expected


@pytest.mark.parametrize(
    ("short", "subject"),
    [
        ("Ejbca", "C=QROO-TEST,CN=SSP"),
        ("Ejbca", "O=GOB,CN=SSP"),
        ("FiVRK", "C=SE,O=Pol,serialNumber=DEV/ss1/GOV,CN=123"),
        ("FiVRK", "C=FI,serialNumber=DEV/ss1/GOV,CN=123"),
        ("FiVRK", "C=FI,O=Pol,serialNumber=DEV/GOV,CN=123"),
        ("FiVRK", "C=FI,O=Pol,serialNumber=DEV//,CN=123"),
        ("Basic", "CN=Police,serialNumber=77"),
        ("SkKlass3", "CN=x,serialNumber=0000000"),
        ("SkKlass3", "CN=x,serialNumber=00000000"),
        ("SkKlass3", "CN=x,organizationIdentifier=NTREE-"),
        ("Is", "C=FO,O=DEV,OU=GOV,CN=5,serialNumber=ss"),
        ("Fo", "C=FO,O=DEV,OU=GOV,CN=5"),
        ("Unknown", "C=QROO-TEST,O=GOB,CN=SSP"),
    ],
)
def test_a_subject_of_another_form_names_nobody(short: str, subject: str) -> None:
    with pytest.raises(CertificateProfileError):
        member_of(pki.issue(subject).certificate, profile(short), SENDER)
