"""`xacbe token` and `xacbe key`, as a technician calls them, against a real signer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from appliance.hsm.wire import CertificateImport, KeyRecord, WrapRequest
from tests.hsm import parts
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import SEAL, SignerBox, signer_box


@pytest.fixture
def softhsm(tmp_path: Path) -> Iterator[TokenProcess]:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process:
        yield process


async def xacbe(box: SignerBox, *words: str, given: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-c", "import sys; from appliance.commands import main; sys.exit(main())", *words]
    command += ["--state", str(box.state), "--language", "en"]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=given, capture_output=True, text=True, env={"PATH": os.defpath}, check=False)

    done = await asyncio.to_thread(call)
    return done.returncode, done.stdout, done.stderr


@on_loop
async def test_a_key_from_its_making_to_its_end(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan) as box:
        code, out, err = await xacbe(box, "key", "generate", SEAL, "--json")
        assert (code, err, json.loads(out)["algorithm"]) == (0, "", "EC-P256")

        csr = tmp_path / "request.pem"
        code, _, _ = await xacbe(box, "key", "csr", SEAL, "--out", str(csr), "--name", "DNS:box.example")
        request = x509.load_pem_x509_csr(csr.read_bytes())
        assert (code, request.is_signature_valid) == (0, True)
        assert "2.5.4.15=MUN" in request.subject.rfc4514_string()

        (key,) = await box.client("console").call("list_keys", None, list[KeyRecord])
        (tmp_path / "certificate.der").write_bytes(parts.certificate_for(key.public_key, seals=True))
        assert (await xacbe(box, "key", "import-cert", SEAL, str(tmp_path / "certificate.der")))[0] == 0
        code, out, _ = await xacbe(box, "key", "list", "--json")
        (shown,) = json.loads(out)
        assert (shown["label"], shown["use"], len(shown["certificates"])) == (SEAL, "seal", 1)
        code, out, _ = await xacbe(box, "key", "list")
        assert (code, SEAL in out) == (0, True)

        code, _, err = await xacbe(box, "key", "delete", SEAL)
        assert (code, "--yes" in err) == (1, True)
        assert (await xacbe(box, "key", "delete", SEAL, "--yes"))[0] == 0
        assert (await xacbe(box, "key", "list"))[1] == "The token has no keys of the box.\n"


@on_loop
async def test_a_pin_is_piped_and_one_try_is_one_try(softhsm: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", softhsm.plan, pin_mode="attended") as box:
        code, out, _ = await xacbe(box, "token", "status")
        assert (code, out) == (1, "Token: locked\n")
        code, _, err = await xacbe(box, "token", "login", given="99999999\n")
        assert (code, err.startswith("token.pin_rejected")) == (1, True)
        assert (await xacbe(box, "token", "login", given="\n"))[0] == 1
        assert json.loads((await xacbe(box, "token", "show", "--json"))[1])["state"] == "pin_rejected"

        assert (await xacbe(box, "token", "unlock", given=f"{parts.PIN}\n"))[0] == 0
        assert (await xacbe(box, "token", "change-pin", given=f"{parts.PIN}\n24681357\n"))[0] == 0
        code, out, _ = await xacbe(box, "token", "show")
        assert (code, "pkcs11" in out, "box" in out) == (0, True, True)


@on_loop
async def test_a_box_without_its_signer_is_exit_code_three(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path), start=False) as box:
        for listener in box._listeners.values():
            listener.close()
        for words in (("token", "show"), ("key", "list")):
            code, _, err = await xacbe(box, *words)
            assert (code, err.startswith("process.away")) == (3, True)


@on_loop
async def test_wrong_words_are_told_and_change_nothing(tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", parts.plan("software", tmp_path)) as box:
        made = await box.with_key()
        for words, kind in (
            (("key", "csr", SEAL, "--subject", "CN"), "command.subject_unreadable"),
            (("key", "csr", SEAL, "--subject", "X=1"), "command.subject_unreadable"),
            (("key", "csr", SEAL, "--subject", "C=Mexico"), "key.subject_malformed"),
            (("key", "generate", "mine"), "key.label_unknown"),
            (("key", "generate", SEAL), "token.key_exists"),
            (("key", "import-cert", SEAL, "/nowhere"), "command.unreadable"),
        ):
            code, _, err = await xacbe(box, *words)
            assert (code, err.partition(":")[0]) == (1, kind)
        again = await box.client("console").call("import_certificate", CertificateImport(SEAL, made.certificates[0]), KeyRecord)
        assert again.certificates == made.certificates


@pytest.mark.parametrize("kind", parts.KINDS)
@on_loop
async def test_an_enrolment_makes_every_key_of_the_box_the_wrapping_key_among_them(kind: str, tmp_path: Path) -> None:
    planned = parts.plan(kind, tmp_path / "token")
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned) as box:
            for _ in range(2):  # the second time everything is there
                code, _, err = await xacbe(box, "enrolment", "request", "--out", str(tmp_path / "request.json"))
                assert (code, "key ready in the token: wrap" in err) == (0, True), err
            listed = {key["label"]: key["algorithm"] for key in json.loads((await xacbe(box, "key", "list", "--json"))[1])}
            assert listed.pop("wrap") == "HMAC-SHA256"
            assert listed == dict.fromkeys((SEAL, "tls-peer", "tls-internal", "tls-report", "log"), "EC-P256")
            asked = json.loads((tmp_path / "request.json").read_text())
            assert sorted(asked["requests"]) == sorted(listed)
            recorder = box.client("recorder")
            blob = await recorder.call("wrap", WrapRequest(bytes(32), b"body"), bytes)
            assert await recorder.call("unwrap", WrapRequest(blob, b"body"), bytes) == bytes(32)
