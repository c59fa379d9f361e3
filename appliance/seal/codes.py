"""What X-Road calls our kinds, in the spelling of 7.8, for reports about seals.

Pure. Sheet 5.9, where X-Road's own verifier was watched one fault at a time. A fault that travels to a peer gets its prefix
(`server.serverproxy.signature_verification.`) where faults are made.
"""

from __future__ import annotations

CODES = {
    "container.no_mimetype": "asic_mime_type_not_found",
    "container.no_message": "asic_message_not_found",
    "container.no_signature": "asic_signature_not_found",
    "container.malformed": "internal_error",
    "container.limit": "internal_error",
    "seal.sender_unreadable": "internal_error",
    "seal.malformed": "malformed_signature",
    "seal.signing_certificate": "malformed_signature",
    "seal.key_usage": "malformed_signature",
    "seal.no_ocsp": "malformed_signature",
    "seal.no_stamp": "malformed_signature",
    "seal.stamp_chain": "malformed_signature",
    "seal.chain_missing": "malformed_signature",
    "seal.chain_malformed": "malformed_signature.malformed_hash_chain",
    "seal.chain_result": "malformed_signature.invalid_hash_chain",
    "seal.chain_reference": "malformed_signature.invalid_hash_chain_ref",
    "seal.chain_unused_input": "malformed_signature.hashchain_unused_inputs",
    "seal.chain_unknown_reference": "malformed_signature.invalid_reference",
    "seal.reference_missing": "malformed_signature.invalid_reference",
    "seal.uncovered_part": "malformed_signature.hashchain_unused_inputs",
    "seal.signature_value": "invalid_signature_value",
    "seal.wrong_digest": "invalid_signature_value",
    "seal.wrong_signer": "incorrect_certificate",
    "certificate.profile": "incorrect_certificate",
    "certificate.malformed": "malformed_signature",
    "chain.untrusted": "internal_error",
    "chain.wrong_signature": "cannot_create_cert_path.internal_error",
    "chain.expired": "cannot_create_cert_path.internal_error",
    "chain.profile": "cannot_create_cert_path.internal_error",
    "ocsp.malformed": "invalid_cert_path.incorrect_validation_info",
    "ocsp.mismatch": "invalid_cert_path.cert_validation",
    "ocsp.untrusted": "invalid_cert_path.incorrect_validation_info",
    "ocsp.stale": "invalid_cert_path.incorrect_validation_info",
    "ocsp.revoked": "invalid_cert_path.cert_validation",
    "tsa.malformed": "malformed_signature",
    "tsa.mismatch": "malformed_signature",
    "tsa.untrusted": "malformed_signature",
    "seal.tsa_not_approved": "mlog.tsp_certificate_not_found",
}


def xroad_code(kind: str) -> str | None:
    """X-Road's code for a kind; None where X-Road has no such check (the eight-hour rule)."""
    return CODES.get(kind)
