"""The signer as a process of its own: what it signs for whom, what it refuses, and how it takes the loss of its token or itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from appliance.clock import SystemClock
from appliance.errors import RefusedError, UnavailableError, XacbeError
from appliance.hsm.client import HandshakeSigner, SignerClient
from appliance.hsm.wire import (
    CHAIN,
    MESSAGE,
    CertificateImport,
    CertificateRequest,
    HandshakeRequest,
    KeyRecord,
    KeyRequest,
    KeyVersion,
    PinRequest,
    SealReply,
    SealRequest,
)
from appliance.processes.signer import REFUSALS_TOLD_MAX
from appliance.seal import hash_chain, xades
from tests.hsm import parts
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import MEMBER, SEAL, SignerBox, signer_box

DIGEST = hashlib.sha512(b"message").digest()


@pytest.fixture
def softhsm(tmp_path: Path) -> Iterator[TokenProcess]:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process:
        yield process


def now_us() -> int:
    return SystemClock().now_us()


async def seal(box: SignerBox, signed: str = MESSAGE, content: bytes = DIGEST) -> SealReply:
    reply: SealReply = await box.client("relay").call("sign_seal", SealRequest(MEMBER, signed, content, now_us()), SealReply)
    return reply


async def refusal(box: SignerBox, caller: str, operation: str, request: object) -> str:
    with pytest.raises(XacbeError) as refused:
        await box.client(caller).call(operation, request)
    return refused.value.kind


@on_loop
async def test_a_seal_is_built_by_the_signer_and_verifies(token_process: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", token_process.plan) as box:
        key = await box.with_key()
        result, _ = hash_chain.build_batch([[(hash_chain.MESSAGE, DIGEST)], [(hash_chain.MESSAGE, DIGEST)]])

        for signed, content, digest in ((MESSAGE, DIGEST, DIGEST), (CHAIN, result, hashlib.sha512(result).digest())):
            reply = await seal(box, signed, content)
            assert reply.certificate == key.certificates[0]
            made = xades.parse(xades.complete(reply.fragment, []))
            half = len(made.value) // 2
            der = encode_dss_signature(int.from_bytes(made.value[:half]), int.from_bytes(made.value[half:]))
            parts.verify(key.public_key, der, hashlib.sha512(made.signed_info).digest(), "sha512")
            assert [reference.value for reference in made.references.values()] == [digest]
        assert (await box.status()).signatures == 2


@on_loop
async def test_an_rsa_member_seals_as_well(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        key = await box.with_key(algorithm="RSA-2048")
        document = xades.complete((await seal(box)).fragment, [])

        signed_info = xades.parse(document).signed_info
        parts.verify(key.public_key, xades.signature_value(document), hashlib.sha512(signed_info).digest(), "sha512")


@on_loop
async def test_a_captured_relay_is_no_signing_oracle(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        await box.with_key()
        await box.with_key("tls-peer")
        await box.with_key("tls-report")

        # No seal key signs a digest, no reporter's key signs for the relay, nobody else signs at all.
        assert await refusal(box, "relay", "sign_handshake", HandshakeRequest(SEAL, DIGEST)) == "key.not_granted"
        assert await refusal(box, "relay", "sign_handshake", HandshakeRequest("log", DIGEST)) == "key.not_granted"
        assert await refusal(box, "relay", "sign_handshake", HandshakeRequest("tls-report", DIGEST)) == "key.not_granted"
        assert await refusal(box, "reporter", "sign_handshake", HandshakeRequest("tls-peer", DIGEST)) == "key.not_granted"
        assert await refusal(box, "reporter", "sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, now_us())) == "caller.not_granted"
        assert await refusal(box, "console", "sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, now_us())) == "caller.not_granted"
        assert await refusal(box, "relay", "generate_key", KeyRequest("log")) == "caller.not_granted"
        # A seal has a message's digest or a hash chain result in it, never arbitrary bytes, and says the time that it is.
        for signed, content in ((MESSAGE, b"x"), (CHAIN, DIGEST), (CHAIN, b"<x/>"), ("digest", DIGEST)):
            assert await refusal(box, "relay", "sign_seal", SealRequest(MEMBER, signed, content, now_us())) == "seal.content_malformed"
        for off_us in (-301_000_000, 301_000_000):
            request = SealRequest(MEMBER, MESSAGE, DIGEST, now_us() + off_us)
            assert await refusal(box, "relay", "sign_seal", request) == "seal.signing_time"
        assert await refusal(box, "relay", "sign_seal", SealRequest("tls-peer", MESSAGE, DIGEST, now_us())) == "key.label_unknown"
        assert (await box.status()).signatures == 0

        async with asyncio.timeout(2):
            while box.recorder.events().count("key.use_refused") < 11:
                await asyncio.sleep(0.01)


@on_loop
async def test_a_captured_relay_does_not_fill_the_audit_log_with_refusals(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        await box.with_key("tls-peer")
        for _ in range(REFUSALS_TOLD_MAX + 25):
            assert await refusal(box, "relay", "sign_handshake", HandshakeRequest("log", DIGEST)) == "key.not_granted"
        assert await refusal(box, "relay", "sign_seal", SealRequest("log", MESSAGE, DIGEST, now_us())) == "key.label_unknown"
        async with asyncio.timeout(5):
            while not any(record.facts.get("operation") == "sign_seal" for record in box.recorder.records):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # answered as well: a record in flight when the signer stops is sent once more
        assert await box.close() == 0

        told = [record.facts for record in box.recorder.records if record.event == "key.use_refused"]
        of_handshakes = [facts for facts in told if facts["operation"] == "sign_handshake"]
        assert len(of_handshakes) == REFUSALS_TOLD_MAX + 1
        assert (of_handshakes[-1]["more"], of_handshakes[-1]["kind"]) == ("25", "key.not_granted")
        assert [facts["kind"] for facts in told if facts["operation"] == "sign_seal"] == ["key.label_unknown"]


@on_loop
async def test_a_relay_handshake_is_signed_with_its_own_keys(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        key = await box.with_key("tls-peer")
        signer = HandshakeSigner(box.state, "relay", "tls-peer")

        for hash_name in ("sha256", "sha384", "sha512"):
            digest = parts.digest_of(b"transcript", hash_name)
            signature = await asyncio.to_thread(signer, digest)
            parts.verify(key.public_key, signature, digest, hash_name)
        assert await refusal(box, "relay", "sign_handshake", HandshakeRequest("tls-peer", bytes(20))) == "token.mechanism_missing"
        signer.close()


@on_loop
async def test_ten_handshakes_at_once_share_the_one_token(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        key = await box.with_key("tls-peer")
        signer = HandshakeSigner(box.state, "relay", "tls-peer")
        digests = [parts.digest_of(bytes([number]), "sha256") for number in range(10)]

        signatures = await asyncio.gather(*(asyncio.to_thread(signer, digest) for digest in digests))

        for digest, signature in zip(digests, signatures, strict=True):
            parts.verify(key.public_key, signature, digest, "sha256")
        signer.close()


@pytest.mark.case("T57")
@on_loop
async def test_a_pulled_token_is_reported_and_used_again_when_it_is_back(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        await box.with_key()
        await seal(box)
        softhsm.unplug()
        begun = time.monotonic()
        await box.until_state("absent", 1.0)
        with pytest.raises(UnavailableError) as refused:
            await seal(box)
        assert refused.value.kind == "token.absent"
        assert time.monotonic() - begun < 2.0
        assert [record.label for record in await box.client("relay").call("list_keys", None, list[KeyRecord])] == [SEAL]

        softhsm.start()
        await box.until_state("ready", 5.0)
        await seal(box)
        assert box.process is not None
        assert box.process.poll() is None


@pytest.mark.case("T57")
@on_loop
async def test_a_token_that_hangs_is_refused_by_deadline_and_not_waited_for(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan, sign_s_max=0.5) as box:
        await box.with_key()
        assert softhsm._process is not None
        os.killpg(softhsm._process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            late = await asyncio.gather(*(seal(box) for _ in range(3)), return_exceptions=True)
            assert time.monotonic() - begun < 1.5
            assert {getattr(error, "kind", None) for error in late} == {"token.busy"}
        finally:
            os.killpg(softhsm._process.pid, signal.SIGCONT)
        await box.until_state("ready")
        await seal(box)


@on_loop
async def test_requests_beyond_the_bound_are_refused_at_once(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan, sign_s_max=1.0, queue_max=4) as box:
        await box.with_key()
        assert softhsm._process is not None
        os.killpg(softhsm._process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            first, *_ = await asyncio.wait([asyncio.ensure_future(seal(box)) for _ in range(12)], return_when=asyncio.FIRST_COMPLETED)
            assert time.monotonic() - begun < 0.5
            for task in first:
                assert isinstance(task.exception(), UnavailableError)
        finally:
            os.killpg(softhsm._process.pid, signal.SIGCONT)
        await asyncio.sleep(1.2)


@on_loop
async def test_a_killed_signer_is_back_without_a_lost_request(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        await box.with_key()
        relay = SignerClient(box.state, "relay")
        assert (await relay.seal(MEMBER, MESSAGE, DIGEST, now_us())).fragment
        box.kill()

        waiting = [asyncio.ensure_future(relay.seal(MEMBER, MESSAGE, DIGEST, now_us())) for _ in range(5)]
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        box.start()
        replies = await asyncio.gather(*waiting)

        assert all(reply.fragment for reply in replies)
        assert time.monotonic() - begun < 3.0
        assert [key.label for key in await relay.keys()] == [SEAL]
        relay.close()


@pytest.mark.case("T57")
@on_loop
async def test_a_refused_credential_is_not_offered_again_by_a_restarted_signer(tmp_path: Path) -> None:
    planned = parts.plan("softhsm", tmp_path / "token")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned, start=False) as box:
            (box.state / "credentials/signer/pin").unlink()
            (box.state / "credentials/signer/pin").write_text("99999999")
            box.start()
            await box.until_state("pin_rejected")
            await box.until_audited("token.pin_refused")
            box.kill()
            box.start()
            await box.until_state("pin_rejected")
            assert box.recorder.events().count("token.pin_refused") == 1
            assert "token.pin_not_offered" in (box.state / "signer.log").read_text()

            for operation in ("generate_key", "delete_key"):
                assert await refusal(box, "console", operation, KeyRequest(SEAL)) == "token.pin_rejected"
            with pytest.raises(RefusedError) as refused:
                await box.client("console").call("unlock", PinRequest("00000000"))
            assert refused.value.kind == "token.pin_rejected"
            await box.client("console").call("unlock", PinRequest(parts.PIN))
            assert (await box.status()).state == "ready"
            await box.with_key()
            await seal(box)


@on_loop
async def test_an_attended_box_waits_for_a_person(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan, pin_mode="attended") as box:
        await box.until_state("locked")
        assert await refusal(box, "relay", "sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, now_us())) == "token.locked"

        box.recorder.away = True
        assert await refusal(box, "console", "unlock", PinRequest(parts.PIN)) == "audit.unavailable"
        box.recorder.away = False
        await box.client("console").call("unlock", PinRequest(parts.PIN))
        await box.with_key()
        await seal(box)
        await box.client("console").call("change_pin", PinRequest(parts.PIN, "24681357"))
        await box.until_audited("token.login", "token.pin_changed")


@on_loop
async def test_a_pin_typed_for_a_token_that_is_ready_is_not_offered(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        await box.until_state("ready")
        await box.with_key()
        for pin in ("00000000", parts.PIN):
            assert await refusal(box, "console", "unlock", PinRequest(pin)) == "token.pin_not_needed"

        status = await box.status()
        assert (status.state, status.tries_left) == ("ready", None)
        assert not (box.state / "keys" / "pin_refused").exists()
        await seal(box)


@on_loop
async def test_nothing_is_made_imported_or_deleted_without_its_audit_record(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        box.recorder.away = True
        for operation, request in (("generate_key", KeyRequest(SEAL)), ("generate_key", KeyRequest("tls-peer"))):
            assert await refusal(box, "console", operation, request) == "audit.unavailable"
        assert await box.client("console").call("list_keys", None, list[KeyRecord]) == []

        box.recorder.away = False
        key = await box.with_key()
        box.recorder.away = True
        assert await refusal(box, "console", "delete_key", KeyRequest(SEAL)) == "audit.unavailable"
        der = parts.certificate_for(key.public_key, seals=True)
        assert await refusal(box, "console", "import_certificate", CertificateImport(SEAL, der)) == "audit.unavailable"
        assert len((await box.client("console").call("list_keys", None, list[KeyRecord]))[0].certificates) == 1

        box.recorder.away = False
        await box.client("console").call("delete_key", KeyRequest(SEAL))
        assert await box.client("console").call("list_keys", None, list[KeyRecord]) == []
        await box.until_audited("key.generation_asked", "key.generated", "key.certificate_import_asked")
        await box.until_audited("key.certificate_imported", "key.deletion_asked", "key.deleted")


@on_loop
async def test_a_tls_key_of_an_algorithm_that_no_handshake_takes_is_refused_by_name(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        assert await refusal(box, "console", "generate_key", KeyRequest("tls-report", "RSA-2048")) == "key.algorithm_unfit"
        await box.with_key("tls-report")
        assert await refusal(box, "console", "renew_key", KeyRequest("tls-report", "RSA-2048")) == "key.algorithm_unfit"
        assert [key.algorithm for key in await box.client("console").call("list_keys", None, list[KeyRecord])] == ["EC-P256"]


@on_loop
async def test_what_happened_while_the_recorder_was_away_is_recorded_when_it_is_back(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        await box.with_key()
        await box.until_audited("key.certificate_imported")
        box.recorder.away = True
        for _ in range(3):
            assert await refusal(box, "relay", "sign_handshake", HandshakeRequest(SEAL, DIGEST)) == "key.not_granted"
        assert "key.use_refused" not in box.recorder.events()

        box.recorder.away = False
        await box.until_audited("key.use_refused")
        refused = [record.facts for record in box.recorder.records if record.event == "key.use_refused"]
        assert [(one["by"], one["operation"], one["kind"]) for one in refused[:1]] == [("relay", "sign_handshake", "key.not_granted")]


@on_loop
async def test_uses_are_audited_as_a_count_when_the_signer_stops(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        await box.with_key()
        for _ in range(3):
            await seal(box)
        assert await box.close() == 0

        used = [record.facts for record in box.recorder.records if record.event == "key.used"]
        assert used == [{"label": SEAL, "uses": "3", "uses_since_start": "3"}]


@on_loop
async def test_the_newest_valid_certificate_is_in_force_and_survives_a_restart(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        key = await box.with_key()
        renewed = parts.certificate_for(key.public_key, seals=True)
        await box.client("console").call("import_certificate", CertificateImport(SEAL, renewed))
        assert (await seal(box)).certificate == renewed
        box.kill()
        box.start()

        (record,) = await box.client("relay").call("list_keys", None, list[KeyRecord])
        assert record.certificates == [renewed, key.certificates[0]]
        assert (await seal(box)).certificate == renewed


@pytest.mark.case("T17")
@on_loop
async def test_a_key_is_renewed_beside_the_old_one_and_both_sign_what_shows_them(token_process: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", token_process.plan) as box:
        console, relay = box.client("console"), box.client("relay")
        old = await box.with_key("tls-peer")
        assert await refusal(box, "console", "generate_key", KeyRequest("tls-peer/2")) == "key.label_unknown"
        assert await refusal(box, "console", "renew_key", KeyRequest("tls-internal")) == "token.key_missing"
        made = await console.call("renew_key", KeyRequest("tls-peer"), KeyVersion)
        assert (made.label, made.state) == ("tls-peer/2", "coming")
        assert (await console.call("renew_key", KeyRequest("tls-peer"), KeyVersion)).label == "tls-peer/2"
        assert await refusal(box, "console", "switch_key", KeyRequest("tls-peer/2")) == "key.not_ready"
        renewed = parts.certificate_for(made.public_key, client=True)
        await console.call("import_certificate", CertificateImport("tls-peer", renewed), KeyRecord)
        digest = parts.digest_of(b"transcript", "sha256")

        async def signed(shown: bytes) -> bytes:
            request = HandshakeRequest("tls-peer", digest, hashlib.sha256(shown).digest())
            signature: bytes = await relay.call("sign_handshake", request, bytes)
            return signature

        parts.verify(old.public_key, await relay.call("sign_handshake", HandshakeRequest("tls-peer", digest), bytes), digest, "sha256")
        await console.call("switch_key", KeyRequest("tls-peer/2"), KeyRecord)
        parts.verify(made.public_key, await relay.call("sign_handshake", HandshakeRequest("tls-peer", digest), bytes), digest, "sha256")
        parts.verify(old.public_key, await signed(old.certificates[0]), digest, "sha256")
        parts.verify(made.public_key, await signed(renewed), digest, "sha256")
        (record,) = await relay.call("list_keys", None, list[KeyRecord])
        assert record.certificates == [renewed, old.certificates[0]]
        box.kill()
        box.start()
        await box.until_state("ready")
        parts.verify(made.public_key, await relay.call("sign_handshake", HandshakeRequest("tls-peer", digest), bytes), digest, "sha256")
        await box.until_audited("key.switch_asked", "key.switched")


@on_loop
async def test_a_certificate_of_another_key_or_for_another_use_is_not_imported(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        key, peer = await box.with_key(), await box.with_key("tls-peer")
        fine = dict(seals=True, client=False)
        for label, der in (
            (SEAL, parts.certificate_for(peer.public_key, **fine)),
            (SEAL, parts.certificate_for(key.public_key, client=True)),
            (SEAL, parts.certificate_for(key.public_key, seals=True, client=True)),
            ("tls-peer", parts.certificate_for(peer.public_key, seals=True)),
            (SEAL, b"junk"),
        ):
            assert await refusal(box, "console", "import_certificate", CertificateImport(label, der)) == "key.certificate_unfit"
        assert await refusal(box, "console", "import_certificate", CertificateImport("tls-internal", b"junk")) == "token.key_missing"


@on_loop
async def test_a_request_for_a_certificate_is_signed_by_the_key_in_the_token(token_process: TokenProcess, tmp_path: Path) -> None:
    from cryptography import x509

    async with signer_box(tmp_path / "box", token_process.plan) as box:
        made = await box.client("console").call("generate_key", KeyRequest(SEAL), KeyRecord)
        asked = CertificateRequest(SEAL, [("2.5.4.6", "MX"), ("2.5.4.3", "BENITO-JUAREZ")], ["DNS:box.example"])
        request = x509.load_der_x509_csr(await box.client("console").call("request_certificate", asked, bytes))

        assert request.is_signature_valid
        assert request.subject.rfc4514_string() == "CN=BENITO-JUAREZ,C=MX"
        assert made.public_key in request.public_bytes(parts.Encoding.DER)


@on_loop
async def test_the_signer_has_no_network_socket_and_no_one_looks_into_it(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        await box.with_key()
        await seal(box)
        assert box.process is not None
        own = {os.readlink(f"/proc/{box.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{box.process.pid}/fd")}
        families = {}
        for family in ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "netlink", "packet"):
            path = Path(f"/proc/{box.process.pid}/net/{family}")
            lines = path.read_text().splitlines()[1:] if path.exists() else []
            inodes = {word for line in lines for word in line.split() if word.isdigit()}
            families[family] = [name for name in own if name.startswith("socket:") and name[8:-1] in inodes]
        assert families.pop("unix")
        assert families == dict.fromkeys(families, [])
        # Not dumpable: its directory in /proc belongs to root, whoever runs it, and the limit on core files is 0.
        assert "Max core file size        0                    0" in Path(f"/proc/{box.process.pid}/limits").read_text()
        environment = Path(f"/proc/{box.process.pid}/environ").read_bytes() + Path(f"/proc/{box.process.pid}/cmdline").read_bytes()
        assert parts.PIN.encode() not in environment
        assert parts.PIN not in (box.state / "signer.log").read_text()


@on_loop
async def test_a_box_without_its_token_serves_what_it_can(tmp_path: Path) -> None:
    planned = parts.plan("softhsm", tmp_path / "token")
    async with signer_box(tmp_path / "box", planned) as box:
        status = await box.status()
        assert (status.maker, status.label, status.state) == ("pkcs11", "box", "absent")
        assert await refusal(box, "relay", "sign_seal", SealRequest(MEMBER, MESSAGE, DIGEST, now_us())) == "token.absent"
