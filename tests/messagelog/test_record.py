"""The record format: what goes in comes out, and nothing else is taken for a record."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.messagelog import record
from appliance.messagelog.record import AuditEntry, BootEntry, BrokenLinkError, CloseEntry, Position, StampEntry
from appliance.messagelog.recovery import ChainCheck

SALT = bytes(range(16))
HEAD = record.segment_head(SALT)
MARK = record.mark_of(HEAD) or 0

entries = st.one_of(
    st.builds(BootEntry, st.integers(0, 1 << 40)),
    st.builds(CloseEntry),
    st.builds(AuditEntry, st.text(max_size=20), st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=20))),
    st.builds(
        StampEntry,
        st.binary(max_size=600),
        st.integers(0, 1 << 60),
        st.integers(0, 1 << 30),
        st.text(max_size=20),
        st.lists(st.integers(1, 1 << 40), max_size=5),
        st.lists(st.integers(1, 1 << 40), max_size=5),
        st.one_of(st.none(), st.binary(max_size=100)),
    ),
)


def segment(written: list[record.Entry], *, groups_of: int = 1, first: Position | None = None) -> tuple[bytes, list[int]]:
    """A segment's bytes and the offsets at which its records end."""
    position = first or Position()
    data, ends = HEAD, []
    for number, entry in enumerate(written):
        flags = record.FIRST_OF_GROUP if number % groups_of == 0 else 0
        data += record.encode(position, MARK, record.KINDS[type(entry)], flags, 1000 + number, record.encode_entry(entry))
        ends.append(len(data))
    return data, ends


@given(st.lists(entries, max_size=8))
def test_every_record_comes_back_as_it_went_in(written: list[record.Entry]) -> None:
    data, _ = segment(written)

    found = list(record.records(data, MARK))

    assert [record.decode_entry(r.kind, r.payload) for r in found] == written
    assert [r.sequence for r in found] == list(range(1, len(written) + 1))
    assert [r.at_us for r in found] == [1000 + n for n in range(len(written))]


@given(st.lists(entries, min_size=1, max_size=5), st.data())
def test_any_cut_of_the_last_group_is_a_torn_tail_after_the_whole_records(written: list[record.Entry], data: st.DataObject) -> None:
    whole, ends = segment(written, groups_of=100)
    cut = data.draw(st.integers(len(HEAD), len(whole)))

    checked = ChainCheck().check(1, whole[:cut], last=True)

    assert checked.good_bytes == max([len(HEAD), *(end for end in ends if end <= cut)])
    assert checked.cut_bytes == cut - checked.good_bytes


@pytest.mark.case("T26")
def test_every_flipped_byte_before_the_last_group_is_found_at_its_record() -> None:
    written: list[record.Entry] = [AuditEntry("thing.happened", "relay", {"n": str(n)}) for n in range(6)]
    whole, ends = segment(written)

    for at in range(len(HEAD), ends[-2]):
        broken = bytearray(whole)
        broken[at] ^= 0x20
        with pytest.raises(BrokenLinkError) as caught:
            ChainCheck().check(1, bytes(broken), last=True)
        assert caught.value.sequence == sum(end <= at for end in ends) + 1


@pytest.mark.case("T26")
@pytest.mark.parametrize("change", ["delete", "swap", "duplicate"])
def test_records_taken_out_moved_or_doubled_are_named(change: str) -> None:
    written: list[record.Entry] = [AuditEntry("thing.happened", "relay", {"n": str(n)}) for n in range(6)]
    whole, ends = segment(written)
    pieces = [whole[start:end] for start, end in zip([len(HEAD), *ends], ends, strict=False)]
    match change:
        case "delete":
            del pieces[2]
        case "swap":
            pieces[2], pieces[3] = pieces[3], pieces[2]
        case _:
            pieces.insert(2, pieces[1])

    with pytest.raises(BrokenLinkError) as caught:
        ChainCheck().check(1, HEAD + b"".join(pieces), last=True)

    assert caught.value.sequence == 3
    assert caught.value.kind == "record.broken_link"


@pytest.mark.case("T26")
def test_a_forged_segment_that_fits_in_itself_does_not_fit_its_neighbour() -> None:
    first, _ = segment([BootEntry(0), CloseEntry()])
    forged, _ = segment([CloseEntry()], first=Position(2, hashlib.sha256(b"forged").digest()))
    check = ChainCheck()
    check.check(1, first, last=False)

    with pytest.raises(BrokenLinkError) as caught:
        check.check(3, forged, last=True)

    assert (caught.value.segment, caught.value.sequence) == (3, 3)


def test_a_message_that_spells_out_a_record_does_not_turn_a_torn_tail_into_damage() -> None:
    inner = record.encode(Position(40), 0x12345678, record.AUDIT, record.FIRST_OF_GROUP, 7, record.encode_entry(CloseEntry()))
    whole, ends = segment([BootEntry(0), AuditEntry("a.b", "relay", {"body": inner.decode("latin-1")})])
    torn = bytearray(whole)
    torn[ends[0] + 10] ^= 1

    checked = ChainCheck().check(1, bytes(torn), last=True)

    assert checked.good_bytes == ends[0]


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=6), st.data())
def test_a_record_whose_content_was_cut_keeps_its_link_and_its_place(contents: list[bytes], data: st.DataObject) -> None:
    position, whole = Position(), HEAD
    for content in contents:
        whole += record.encode(position, MARK, record.AUDIT, record.FIRST_OF_GROUP, 5, b"payload", content)
    written = list(record.records(whole, MARK))
    kept = [data.draw(st.booleans()) for _ in written]

    cut = HEAD + b"".join(
        whole[each.offset : each.offset + each.size] if keep else record.without_content(each, MARK)
        for each, keep in zip(written, kept, strict=True)
    )

    check = ChainCheck()
    check.check(1, cut, last=True)
    found = list(record.records(cut, MARK))
    assert (check.position.sequence, check.position.link) == (len(contents), position.link)
    assert [each.link for each in found] == [each.link for each in written]
    assert [each.content for each in found] == [content if keep else b"" for content, keep in zip(contents, kept, strict=True)]
    assert [each.is_content_cut for each in found] == [bool(content) and not keep for content, keep in zip(contents, kept, strict=True)]


@pytest.mark.case("T26")
def test_a_content_put_in_the_place_of_another_is_named_although_every_checksum_fits() -> None:
    position = Position()
    whole = [record.encode(position, MARK, record.AUDIT, 1, 5, b"payload", content) for content in (b"one", b"two", b"three")]
    second = record.read(whole[1], 0, MARK)
    assert second is not None
    forged = record.without_content(second, MARK)[: -record.CRC_BYTES] + b"owt"
    forged = forged[:8] + (3).to_bytes(4, "big") + forged[12:]
    forged += zlib.crc32(forged, MARK).to_bytes(4, "big")

    with pytest.raises(BrokenLinkError) as caught:
        ChainCheck().check(1, HEAD + whole[0] + forged + whole[2], last=True)

    assert caught.value.sequence == 2


def test_the_link_is_the_leaf_hash_of_rfc_6962() -> None:
    position = Position()
    data = record.encode(position, MARK, record.AUDIT, 1, 5, b"payload", b"content")

    linked = data[12 : record.HEAD.size] + hashlib.sha256(b"content").digest() + b"payload"
    assert position.link == hashlib.sha256(b"\0" + linked).digest()


def test_a_type_of_a_newer_version_is_carried_along() -> None:
    position, data = Position(), HEAD
    data += record.encode(position, MARK, 200, record.FIRST_OF_GROUP, 1, b"whatever")
    data += record.encode(position, MARK, record.CLOSE, record.FIRST_OF_GROUP, 2, record.encode_entry(CloseEntry()))
    check = ChainCheck()

    check.check(1, data, last=True)

    assert check.position.sequence == 2
    assert [record.decode_entry(r.kind, r.payload) for r in record.records(data, MARK)] == [None, CloseEntry()]


def test_fields_that_a_newer_version_appended_are_ignored() -> None:
    payload = msgspec.msgpack.encode(["access.refused", "relay", {}, "a field of tomorrow"])

    assert record.decode_entry(record.AUDIT, payload) == AuditEntry("access.refused", "relay", {})


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_record(noise: bytes) -> None:
    checked = ChainCheck().check(1, HEAD + noise, last=True)

    assert checked.cut_bytes == len(noise)
