"""Everything together, judged by the box's own trust core: enrolled, published, asked, stamped."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography import x509

from provisioning import enrolment, publication
from provisioning.authority import ocsp_responder, tsa
from provisioning.authority.ocsp_responder import Delegate
from provisioning.centre import Centre
from tests.provisioning.parts import LABELS, NOW_US, StandingClock, box_keys, enrolment_request


@pytest.mark.rule("IV.3.II-IV")
@pytest.mark.parametrize("label", LABELS)
def test_an_enrolled_boxs_certificates_hold_until_they_are_revoked(own_centre: Centre, label: str) -> None:
    from appliance.trust import chains, ocsp
    from appliance.trust.global_configuration import parse_shared_parameters

    approval = enrolment.approve(own_centre, enrolment_request(box_keys()), "127.0.11.21", StandingClock())
    leaf = x509.load_der_x509_certificate(base64.b64decode(approval["certificates"][label]))
    signing = publication.ConfigurationKey(own_centre.certificate("configuration"), own_centre.key("configuration"))
    delegate = Delegate(own_centre.certificate("issuing"), own_centre.certificate("ocsp"), own_centre.key("ocsp"))
    with own_centre.registry() as registry:
        parts = publication.publish(registry, own_centre, signing, 6, NOW_US).parts
        shared = parse_shared_parameters(next(part for name, part in parts.items() if "shared" in name), 6)
        ((certificate, issuer),) = chains.check_path(leaf, [], shared, NOW_US)
        request = ocsp.build_request(certificate, issuer)

        def asked() -> bytes:
            return ocsp_responder.answer(request, registry.status, delegate, NOW_US, own_centre.settings.parameters.ocsp_validity_s)

        assert ocsp.check_response(asked(), certificate, issuer, shared, NOW_US).produced_at_us == NOW_US - NOW_US % 1_000_000
        registry.revoke(leaf.serial_number, NOW_US, "keyCompromise")
        with pytest.raises(ocsp.OcspRevokedError):
            ocsp.check_response(asked(), certificate, issuer, shared, NOW_US)


@pytest.mark.rule("IV.3.V")
def test_the_published_authority_stamps_what_a_box_asks(own_centre: Centre) -> None:
    from appliance.trust import timestamps
    from appliance.trust.global_configuration import parse_shared_parameters

    signing = publication.ConfigurationKey(own_centre.certificate("configuration"), own_centre.key("configuration"))
    with own_centre.registry() as registry:
        parts = publication.publish(registry, own_centre, signing, 6, NOW_US).parts
    shared = parse_shared_parameters(next(part for name, part in parts.items() if "shared" in name), 6)
    imprint = hashlib.sha512(b"a root").digest()

    stamping = tsa.StampingKey(own_centre.certificate("tsa"), own_centre.key("tsa"))
    token = timestamps.token_of_response(tsa.answer(timestamps.build_request(imprint), stamping, NOW_US, 1), imprint, shared.tsas)

    assert timestamps.check_token(token, b"a root", shared.tsas).authority == "CEIQROO QROO-TEST TSA"
