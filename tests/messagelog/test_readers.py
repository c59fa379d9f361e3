"""Reading the log is a right: who, why, and a record of it before anything is shown (T31); proofs of single records; the report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.access.roles import ADMINISTRATOR, AUDITOR, Account, RoleMissingError, check_change, may
from appliance.errors import UnavailableError, UnverifiedError, XacbeError
from appliance.messagelog import proof, record
from appliance.messagelog.checkpoint import CheckpointInvalidError
from appliance.messagelog.readers import ReasonMissingError
from appliance.messagelog.record import AuditEntry, MessageEntry
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.wire import ExchangeGroup, ListAudits, ListRecords, ProveRecord, ReadRecord, ReportExchanges
from appliance.net.local_server import called_by
from tests.messagelog.log_box import OWN_USER, LogBox, append, append_all, until_stamped

REASON = "case 7/2026"
READS: dict[str, Callable[[str], object]] = {
    "list_records": lambda reason: ListRecords(reason=reason),
    "read_record": lambda reason: ReadRecord(3, reason),
    "prove_record": lambda reason: ProveRecord(3, reason),
    "report_exchanges": lambda reason: ReportExchanges(0, 0, "", reason),
}


def played(box: LogBox, act: Callable[[Recorder], Awaitable[None]]) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            await append_all(recorder, box.appends(["a", "b", "c"]))
            await until_stamped(recorder)
            await act(recorder)

    asyncio.run(play())


async def ask(recorder: Recorder, operation: str, request: object, uid: int | None = None) -> object:
    with called_by(os.getuid() if uid is None else uid):
        return await recorder.handlers()[operation]("console", msgspec.msgpack.encode(request))


def acts(recorder: Recorder) -> list[AuditEntry]:
    found = [record.decode_entry(r.kind, r.payload) for _, r in recorder.store.records_from(1) if r.kind == record.AUDIT]
    return [each for each in found if isinstance(each, AuditEntry)]


@pytest.mark.case("T31")
@pytest.mark.rule("IV.2.III.B")
@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("roles", [(), (ADMINISTRATOR,)])
def test_without_the_role_nothing_is_read_and_the_refusal_is_audited(tmp_path: Path, operation: str, roles: tuple[str, ...]) -> None:
    box = LogBox(tmp_path)
    box.accounts = [Account(OWN_USER, roles), Account("somebody-else", (AUDITOR,))]

    async def act(recorder: Recorder) -> None:
        with pytest.raises(RoleMissingError):
            await ask(recorder, operation, READS[operation](REASON))
        refusal = acts(recorder)[-1]
        assert (refusal.event, refusal.facts["kind"], refusal.facts["by"]) == ("log.read_refused", "access.role_missing", OWN_USER)

    played(box, act)


@pytest.mark.case("T31")
@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("reason", ["", "  \n"])
def test_without_a_reason_nothing_is_read(tmp_path: Path, operation: str, reason: str) -> None:
    async def act(recorder: Recorder) -> None:
        with pytest.raises(ReasonMissingError):
            await ask(recorder, operation, READS[operation](reason))
        assert acts(recorder)[-1].event == "log.read_refused"

    played(LogBox(tmp_path), act)


@pytest.mark.case("T31")
@pytest.mark.parametrize(("operation", "name"), list(zip(READS, ["find", "show", "prove", "report"], strict=True)))
def test_a_read_leaves_who_which_act_and_why_before_it_is_answered(tmp_path: Path, operation: str, name: str) -> None:
    async def act(recorder: Recorder) -> None:
        answer = asyncio.ensure_future(ask(recorder, operation, READS[operation](REASON)))
        reply = await answer
        if hasattr(reply, "descriptor"):
            os.close(reply.descriptor)
        read = acts(recorder)[-1]
        assert (read.event, read.caller) == ("log.read", "console")
        assert {key: read.facts[key] for key in ("act", "by", "uid", "reason")} == {
            "act": name,
            "by": OWN_USER,
            "uid": str(os.getuid()),
            "reason": REASON,
        }

    played(LogBox(tmp_path), act)


@pytest.mark.case("T31")
def test_while_nobody_says_who_may_read_nobody_reads(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def away() -> list[Account]:
        raise UnavailableError("the supervisor is away", kind="process.away")

    box._accounts = away  # type: ignore[method-assign]

    async def act(recorder: Recorder) -> None:
        for operation, request in READS.items():
            with pytest.raises(UnavailableError):
                await ask(recorder, operation, request(REASON))
        with pytest.raises(UnavailableError):
            await ask(recorder, "list_audits", ListAudits())

    played(box, act)


@pytest.mark.case("T31")
def test_a_request_of_which_nobody_knows_the_person_is_refused(tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        for operation, request in READS.items():
            with pytest.raises(RoleMissingError):
                await recorder.handlers()[operation]("console", msgspec.msgpack.encode(request(REASON)))
        with pytest.raises(RoleMissingError):
            await ask(recorder, "list_records", ListRecords(reason=REASON), uid=4_000_000)

    played(LogBox(tmp_path), act)


def test_root_enters_accounts_but_reads_nothing_by_being_root() -> None:
    check_change("root", 0, [])
    check_change("ana", 1000, [Account("ana", (ADMINISTRATOR,))])
    for accounts in ([], [Account("ana", (AUDITOR,))], [Account("eva", (ADMINISTRATOR,))]):
        with pytest.raises(RoleMissingError):
            check_change("ana", 1000, accounts)
    assert not may("read_log", [ADMINISTRATOR])
    assert not may("read_log", ["root"])
    assert not may("anything", [AUDITOR, ADMINISTRATOR])


@pytest.mark.rule("IV.6.IV")
def test_the_report_counts_by_represented_party_and_end_user_without_content(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def act(recorder: Recorder) -> None:
        for number, (party, user) in enumerate([("GOB/77", "ana"), ("GOB/77", "ana"), ("GOB/77", "eva"), ("GOB/88", None)]):
            request = box.appends([f"r-{number}"])[0]
            await append(recorder, msgspec.structs.replace(request, represented_party=party, end_user=user))
        found = await ask(recorder, "report_exchanges", ReportExchanges(0, 0, "", REASON))
        assert isinstance(found, list)
        assert all(isinstance(each, ExchangeGroup) for each in found)
        counts = {(each.represented_party, each.end_user): each.requests for each in found}
        assert counts == {(None, None): 3, ("GOB/77", "ana"): 2, ("GOB/77", "eva"): 1, ("GOB/88", None): 1}
        only = await ask(recorder, "report_exchanges", ReportExchanges(0, 0, "GOB/77", REASON))
        assert isinstance(only, list)
        assert sum(each.requests for each in only) == 3
        assert await ask(recorder, "report_exchanges", ReportExchanges(box.clock.us + 1, 0, "", REASON)) == []
        listed = await ask(recorder, "list_records", ListRecords(represented_party="GOB/88", reason=REASON))
        assert isinstance(listed, list)
        assert [(each.represented_party, each.end_user) for each in listed] == [("GOB/88", None)]

    played(box, act)


@pytest.mark.case("T27")
def test_a_proof_of_any_record_holds_offline_and_shows_what_the_record_says(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def act(recorder: Recorder) -> None:
        last = recorder.store.position.sequence
        for sequence in range(1, last + 1):
            data = await ask(recorder, "prove_record", ProveRecord(sequence, REASON))
            assert isinstance(data, bytes)
            shown = proof.check(data, [box.signer.public_key])
            found = next(each for _, each in recorder.store.records_from(sequence))
            assert (shown.sequence, shown.kind, shown.at_us) == (sequence, found.kind, found.at_us)
            assert shown.entry == record.decode_entry(found.kind, found.payload)
            if isinstance(shown.entry, MessageEntry):
                assert shown.content_digest == found.content_digest
        with pytest.raises(XacbeError):
            await ask(recorder, "prove_record", ProveRecord(10_000, REASON))

    played(box, act)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A proof's file and the key that it holds under."""
    box, made = LogBox(tmp_path_factory.mktemp("proven")), []

    async def act(recorder: Recorder) -> None:
        made.append(await ask(recorder, "prove_record", ProveRecord(3, REASON)))

    played(box, act)
    return made[0], box.signer.public_key


@pytest.mark.case("T27")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_a_proof_ends_it_but_in_the_certificate(proven: tuple[bytes, bytes], data: st.DataObject) -> None:
    whole, key = proven
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))

    try:
        shown = proof.check(bytes(changed), [key])
    except UnverifiedError:
        return
    before, after = proof.read(whole), proof.read(bytes(changed))
    assert shown == proof.check(whole, [key])
    assert (after.linked, after.path, after.note, after.sequence) == (before.linked, before.path, before.note, before.sequence)


def test_a_proof_is_believed_under_a_certificate_of_ceiqroo_for_that_box_only(proven: tuple[bytes, bytes]) -> None:
    given_proof = proof.read(proven[0])
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(given_proof.certificate)

    for issuers in ([], [certificate]):  # self-signed, and its subject is no box's
        with pytest.raises(CheckpointInvalidError):
            proof.trusted_key(given_proof.certificate, "xacbe.log/QROO-TEST/GOV/1001/SS1", issuers)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_proof(noise: bytes) -> None:
    for data in (noise, b"c2sp.org/tlog-proof@v1\n" + noise, b"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 0\n\n" + noise):
        with pytest.raises(UnverifiedError):
            proof.check(data, [])
