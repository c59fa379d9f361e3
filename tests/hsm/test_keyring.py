"""Which process may use which key for what."""

from __future__ import annotations

import pytest

from appliance import topology
from appliance.hsm import keyring
from appliance.hsm.keyring import KeyAlgorithmError, KeyNotGrantedError, LabelError

EVERY = (*topology.BY_NAME, topology.CONSOLE)
LABELS = ("seal/MUN/TULUM", "tls-peer", "tls-internal", "tls-report", "log", "wrap")


def granted(check: object) -> set[tuple[str, str]]:
    found = set()
    for caller in EVERY:
        for label in LABELS:
            try:
                check(caller, label)  # type: ignore[operator]  # either of the two checks
                found.add((caller, label))
            except KeyNotGrantedError:
                continue
    return found


def test_only_the_relay_makes_seals_and_only_with_seal_keys() -> None:
    assert granted(keyring.check_seal) == {("relay", "seal/MUN/TULUM")}


def test_handshakes_are_signed_with_the_callers_own_tls_keys() -> None:
    assert granted(keyring.check_handshake) == {("relay", "tls-peer"), ("relay", "tls-internal"), ("reporter", "tls-report")}


def test_keys_that_the_plan_does_not_have_have_no_use() -> None:
    assert [keyring.use_of(label) for label in LABELS] == ["seal", "tls", "tls", "tls", "log", "wrap"]
    for label in ("", "seal/", "seal/MUN", "seal/MUN/", "seal/MUN/A/B", "seal/MUN/A\n", "tls", "TLS-PEER", "seal/M\0/A"):
        with pytest.raises(LabelError):
            keyring.use_of(label)
    with pytest.raises(LabelError):
        keyring.seal_label("tls-peer")


def test_a_renewed_key_has_the_use_of_its_label_and_a_name_that_no_other_key_has() -> None:
    renewed = {"tls-peer/2": "tls-peer", "seal/MUN/TULUM/3": "seal/MUN/TULUM", "log/999": "log"}
    assert {label: keyring.role_of(label) for label in renewed} == renewed
    assert [keyring.use_of(label) for label in renewed] == ["tls", "seal", "log"]
    assert [keyring.version_of(label) for label in (*renewed, "log", "seal/MUN/2")] == [2, 3, 999, 1, 1]
    assert keyring.versioned("tls-peer", 1) == "tls-peer"
    assert keyring.versioned("tls-peer", 2) == "tls-peer/2"
    for label in ("tls-peer/1", "tls-peer/0", "tls-peer/02", "tls-peer/1000", "tls-peer/2/2", "seal/MUN/TULUM/1", "seal/MUN/TULUM/x"):
        with pytest.raises(LabelError):
            keyring.use_of(label)
    with pytest.raises(LabelError):
        keyring.versioned("tls-peer", 1000)


def test_who_uses_keys_never_chooses_the_version() -> None:
    with pytest.raises(LabelError):
        keyring.seal_label("MUN/TULUM/2")
    with pytest.raises(KeyNotGrantedError):
        keyring.check_handshake("relay", "tls-peer/2")


def test_a_tls_key_that_no_handshake_could_use_is_not_made() -> None:
    for label in ("tls-peer", "tls-internal", "tls-report", "tls-report/2"):
        with pytest.raises(KeyAlgorithmError):
            keyring.check_algorithm(label, "RSA-2048")
        keyring.check_algorithm(label, "EC-P384")
    keyring.check_algorithm("seal/MUN/TULUM", "RSA-3072")
