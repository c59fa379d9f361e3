"""Who a signing certificate speaks for: the member's identifier out of the subject, by the profile of the certificate's issuer.

Pure. Sheet 5.5. The global configuration names the profile as a Java class; its last segment chooses the rule. The first value of each
subject field counts. Whether the member found is the sender is the caller's comparison.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.x509.oid import NameOID

from appliance.errors import UnverifiedError
from appliance.model.identifiers import ClientId

_C, _O, _OU, _CN = NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME
_SERIAL, _CATEGORY, _ORGANIZATION_ID = NameOID.SERIAL_NUMBER, NameOID.BUSINESS_CATEGORY, NameOID.ORGANIZATION_IDENTIFIER

_NAMES = {
    _C: "C",
    _O: "O",
    _OU: "OU",
    _CN: "CN",
    _SERIAL: "serialNumber",
    _CATEGORY: "businessCategory",
    _ORGANIZATION_ID: "organizationIdentifier",
}


class CertificateProfileError(UnverifiedError):
    """The subject does not have the form that its issuer's profile prescribes; X-Road: `incorrect_certificate`."""

    kind = "certificate.profile"


Subject = Callable[[x509.ObjectIdentifier], str | None]


def member_of(certificate: x509.Certificate, profile: str, expected: ClientId) -> ClientId:
    """The member named in a signing certificate.

    `profile`: as in `CaCertificate.profile`; `expected`: the sender, from whom profiles without an instance field take the instance.
    Raises CertificateProfileError for an unknown profile or a subject of another form.
    """
    rule = _PROFILES.get(profile.rsplit(".", 1)[-1].removesuffix("CertificateProfileInfoProvider"))
    if rule is None:
        raise CertificateProfileError(f"unknown certificate profile {profile[:120]}")

    def field(oid: x509.ObjectIdentifier) -> str | None:
        values = certificate.subject.get_attributes_for_oid(oid)
        if not values:
            return None
        return values[0].value if isinstance(values[0].value, str) else None

    instance, member_class, member_code = rule(field, expected.instance)
    if not (instance and member_class and member_code):
        raise CertificateProfileError("an empty part in the member's name")
    return ClientId(instance, member_class, member_code)


def _need(field: Subject, oid: x509.ObjectIdentifier) -> str:
    value = field(oid)
    if not value:
        raise CertificateProfileError(f"the subject has no {_NAMES[oid]}")
    return value


def _ejbca(field: Subject, _: str) -> tuple[str, str, str]:
    return _need(field, _C), _need(field, _O), _need(field, _CN)


def _fivrk(field: Subject, instance: str) -> tuple[str, str, str]:
    serial = field(_SERIAL)
    if serial is None:
        if field(_OU) is None:
            return _ejbca(field, instance)
        _country(field, "FI")
        return _need(field, _O), _need(field, _OU), _need(field, _CN)
    _country(field, "FI")
    _need(field, _O)
    parts = serial.split("/")
    if len(parts) != 3:
        raise CertificateProfileError("serialNumber is not instance/server/class")
    return parts[0], parts[2], _need(field, _CN)


def _basic(field: Subject, instance: str) -> tuple[str, str, str]:
    return instance, _need(field, _CATEGORY), _need(field, _SERIAL)


def _sk_klass3(field: Subject, instance: str) -> tuple[str, str, str]:
    if organization := field(_ORGANIZATION_ID):
        for prefix, member_class in (("NTREE-", "COM"), ("GO:EE-", "GOV"), ("NP:EE-", "NGO")):
            if organization.startswith(prefix):
                return instance, member_class, organization[len(prefix) :]
        return instance, "NEE", organization
    serial = _need(field, _SERIAL)
    if not (len(serial) == 8 and serial.isascii() and serial.isdigit()):
        raise CertificateProfileError("serialNumber does not have 8 digits")
    if serial[0] == "0":
        raise CertificateProfileError("serialNumber begins with 0")
    return instance, "COM" if serial[0] in "123456" else "GOV" if serial[0] == "7" else "NGO", serial


def _iceland(field: Subject, instance: str) -> tuple[str, str, str]:
    if field(_SERIAL) is None and field(_OU) is None:
        return _ejbca(field, instance)
    return _country_and_unit(field, "IS")


def _faroes(field: Subject, _: str) -> tuple[str, str, str]:
    return _country_and_unit(field, "FO")


def _country_and_unit(field: Subject, country: str) -> tuple[str, str, str]:
    _country(field, country)
    _need(field, _SERIAL)
    return _need(field, _O), _need(field, _OU), _need(field, _CN)


def _este_id(field: Subject, instance: str) -> tuple[str, str, str]:
    return instance, "PERSON", _need(field, _SERIAL)


def _country(field: Subject, country: str) -> None:
    if field(_C) != country:
        raise CertificateProfileError(f"the subject's C is not {country}")


_PROFILES: dict[str, Callable[[Subject, str], tuple[str, str, str]]] = {
    "Ejbca": _ejbca,
    "FiVRK": _fivrk,
    "Basic": _basic,
    "BasicACME": _basic,
    "SkKlass3": _sk_klass3,
    "Is": _iceland,
    "Fo": _faroes,
    "SkEsteId": _este_id,
}
