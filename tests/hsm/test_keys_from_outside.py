"""What others' tools see: pkcs11-tool and tpm2-tools list the keys with the attributes promised, strace sees no network, tokens are told
apart."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from appliance.errors import SettingsError
from appliance.hsm.pkcs11 import Pkcs11Token
from appliance.hsm.token import HMAC_SHA256, SeveralTokensError, TokenAbsentError
from appliance.hsm.tpm2 import KeyBlob, TpmToken
from provisioning.lab import tokens
from tests.hsm import parts
from tests.hsm.parts import TokenProcess, on_loop
from tests.hsm.signer_box import SEAL, signer_box
from tests.hsm.test_commands import xacbe

OPENSC = Path("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so")
PRIMARY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
DIGEST = parts.digest_of(b"m")


def run(command: list[str], **more: str) -> str:
    """Output of a tool that must succeed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env={"PATH": os.defpath, **more})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pkcs11_tool_sees_keys_that_cannot_be_taken_out(tmp_path: Path) -> None:
    with parts.running(parts.plan("softhsm", tmp_path / "token")) as process, parts.opened(process.plan, tmp_path / "keys") as token:
        token.login(parts.PIN)
        for label, algorithm in ((SEAL, "EC-P256"), ("seal/EST/SSP", "RSA-2048"), ("tls-peer", "EC-P256"), ("wrap", HMAC_SHA256)):
            token.generate(label, algorithm)
        tool = ["pkcs11-tool", "--module", process.plan.settings["module"], "--login", "--pin", "env:PIN"]
        seen = {"PIN": parts.PIN, "P11_KIT_SERVER_ADDRESS": process.plan.settings["module_address"]}

        for kind, labels in (("privkey", {SEAL, "seal/EST/SSP", "tls-peer"}), ("secrkey", {"wrap"})):
            listed = run([*tool, "--list-objects", "--type", kind], **seen)
            assert set(re.findall(r"label: +(\S+)", listed)) == labels
            access = re.findall(r"Access: +(.+)", listed)
            assert access == ["sensitive, always sensitive, never extractable, local"] * len(labels), listed
            assert not re.search(r"Usage:.*(decrypt|unwrap|derive)", listed), listed
            assert "value" not in listed.lower()
        read = [*tool, "--read-object", "--type", "secrkey", "--label", "wrap"]
        refused = subprocess.run(read, env={"PATH": os.defpath, **seen}, capture_output=True, check=False, timeout=30)
        assert (refused.stdout, b"sensitive" in refused.stderr.lower()) == (b"", True), refused.stderr


def test_tpm2_tools_derive_the_same_primary_and_see_keys_that_cannot_leave(tmp_path: Path) -> None:
    planned = parts.plan("swtpm", tmp_path / "tpm")
    with parts.running(planned), parts.opened(planned, tmp_path / "keys") as token:
        assert isinstance(token, TpmToken)
        token.generate(SEAL, "EC-P256")
        token.generate("wrap", HMAC_SHA256)
        token.close()
        tcti = ["-T", f"swtpm:path={planned.sockets[0]}"]
        where = {name: str(tmp_path / name) for name in ("primary", "public", "private", "key", "signature", "digest", "key.pem")}
        run(["tpm2_createprimary", *tcti, "-C", "o", "-g", "sha256", "-G", "ecc256:aes128cfb", "-a", PRIMARY, "-c", where["primary"]])
        for label, sort in ((SEAL, "ecc"), ("wrap", "keyedhash")):
            run(["tpm2_flushcontext", *tcti, "-t"])
            (file,) = (tmp_path / "keys" / "tpm2").glob(f"*{label.rpartition('/')[2]}.tpm")
            blob = msgspec.msgpack.decode(file.read_bytes(), type=KeyBlob)
            Path(where["public"]).write_bytes(blob.public)
            Path(where["private"]).write_bytes(blob.private)
            run(["tpm2_load", *tcti, "-C", where["primary"], "-u", where["public"], "-r", where["private"], "-c", where["key"]])
            shown = run(["tpm2_readpublic", *tcti, "-c", where["key"]])
            assert "value: fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign\n" in shown, shown
            assert f"value: {sort}\n" in shown
        assert list((tmp_path / "keys").rglob("*.tpm")), "the blobs are the box's files, the keys are the chip's"


@pytest.mark.case("T59")
@pytest.mark.parametrize("kind", ["softhsm", "swtpm"])
@on_loop
async def test_strace_sees_the_signer_open_local_sockets_only(kind: str, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace not installed")
    planned = parts.plan(kind, tmp_path / "token")
    trace = tmp_path / "trace"
    with parts.running(planned):
        async with signer_box(tmp_path / "box", planned, start=False) as box:
            # -D: the signer stays the process that was started, the tracer is somebody else's child
            box.start("strace", "-D", "-f", "-qq", "-e", "trace=socket,socketpair,connect,bind,sendto,sendmsg", "-o", str(trace))
            await box.until_state("ready", 20.0)
            await box.with_key("tls-peer")
            await box.client("console").call("list_keys", None)
    calls = trace.read_text().splitlines()
    opened = [line for line in calls if re.search(r"\bsocket(pair)?\(", line)]
    assert opened
    assert [line for line in opened if "AF_UNIX" not in line] == []
    assert not re.search(r"AF_INET|AF_NETLINK|AF_PACKET", "\n".join(calls))


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[TokenProcess]:
    """Two tokens of one label behind one module, as two sticks out of the same box of six."""
    planned = parts.plan("softhsm", tmp_path / "token")
    parts.plan("softhsm", tmp_path / "other")
    for token in (tmp_path / "other" / "tokens").iterdir():
        token.rename(tmp_path / "token" / "tokens" / token.name)
    with parts.running(planned) as process:
        yield process


def opened(process: TokenProcess, **named: str) -> Pkcs11Token:
    return Pkcs11Token(process.plan.settings["module"], address=process.plan.settings["module_address"], **named)


def test_of_two_tokens_with_one_label_none_is_taken_and_the_serial_says_which(twins: TokenProcess) -> None:
    by_label = opened(twins, label="box")
    with pytest.raises(TokenAbsentError, match="signer.token_serial"):
        by_label.login(parts.PIN)
    facts = by_label.check()
    assert (facts.state, "several" in facts.reason) == ("absent", True)
    seen = by_label.seen()
    assert [one.chosen for one in seen if one.label == "box"] == [False, False]
    with pytest.raises(SeveralTokensError):
        by_label.initialise(parts.SO_PIN, parts.PIN)
    by_label.close()

    first, second = sorted(one.serial for one in seen if one.label == "box")
    one = opened(twins, serial=first)
    one.login(parts.PIN)
    made = one.generate(SEAL, "EC-P256")
    one.close()
    other = opened(twins, label="box", serial=second)
    other.login(parts.PIN)
    assert ([*other.keys()], other.check().serial) == ([], second)
    other.close()
    again = opened(twins, serial=first)
    again.login(parts.PIN)
    parts.verify(made.public_key, again.sign_digest(SEAL, DIGEST, "sha512"), DIGEST, "sha512")
    assert [one.serial for one in again.seen() if one.chosen] == [first]
    again.close()


@on_loop
async def test_a_box_whose_settings_name_two_tokens_says_so(twins: TokenProcess, tmp_path: Path) -> None:
    async with signer_box(tmp_path / "box", twins.plan) as box:
        await box.until_state("absent")
        code, _, err = await xacbe(box, "key", "csr", SEAL)
        assert (code, "signer.token_serial" in err) == (3, True)
        listed = json.loads((await xacbe(box, "token", "list", "--json"))[1])
        serials = [one["serial"] for one in listed if one["label"] == "box"]
        assert (len(serials), [one["chosen"] for one in listed]) == (2, [False] * len(listed))
    named = replace(twins.plan, settings={**twins.plan.settings, "token_serial": serials[1]})
    async with signer_box(tmp_path / "named", named) as box:
        await box.until_state("ready")
        assert (await box.status()).serial == serials[1]


@on_loop
async def test_a_makers_own_module_is_used_by_its_path_and_without_a_reader_there_is_no_token(tmp_path: Path) -> None:
    """OpenSC's module (Nitrokey HSM, SmartCard-HSM), as far as a machine without the part can show."""
    if not OPENSC.exists():
        pytest.skip("opensc-pkcs11 not installed")
    planned = tokens.TokenPlan([], {}, {"token": "pkcs11", "module": str(OPENSC), "token_serial": "DENK0200000"}, pin=parts.PIN)
    async with signer_box(tmp_path / "box", planned) as box:
        await box.until_state("absent")
        assert (await box.status()).maker == "pkcs11"
        code, out, err = await xacbe(box, "token", "list", "--json")  # newer ones do not even answer where no reader service runs
        assert (code, out.strip()) == (0, "[]") or (code, err.partition(":")[0]) == (3, "token.absent")
        assert (await xacbe(box, "key", "csr", SEAL))[0] == 3


def test_a_module_that_is_not_there_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="signer.module"):
        Pkcs11Token("/usr/lib/x86_64-linux-gnu/pkcs11/yubihsm_pkcs11.so", label="box")
