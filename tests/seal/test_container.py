"""ASiC-E containers: ours are X-Road's layout byte for byte the same, hostile ones are refused before anything is inflated."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from appliance.seal.container import ENTRIES_MAX, MIMETYPE, ContainerError, Contents, read_container, write_container
from appliance.seal.hash_chain import SHA512, build_batch, build_stamp_batch, sha512
from tests.seal.test_xades import DOCUMENT
from tests.seal.workshop import HEAD, NOON_US, parts_of
from tests.vectors import VECTORS, needs_vectors

RESULT, (CHAIN,) = build_batch([parts_of(HEAD, [b"body"])])
STAMP_RESULT, (STAMP_CHAIN, _) = build_stamp_batch([sha512(DOCUMENT), sha512(b"")])
WHOLE = Contents(
    message=HEAD,
    signature=DOCUMENT,
    chain_result=RESULT,
    chain=CHAIN,
    stamp_token=b"token",
    stamp_chain_result=STAMP_RESULT,
    stamp_chain=STAMP_CHAIN,
    attachments=[b"body"],
)


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def archive_of(
    *entries: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A container with these entries besides the usual ones; `change` spoils their headers."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name, data in (("mimetype", MIMETYPE.encode()), ("message.xml", HEAD), ("META-INF/signatures.xml", DOCUMENT)):
            archive.writestr(name, data)
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if change:
                change(info)
            archive.writestr(info, data)
    return output.getvalue()


@pytest.mark.rule("I.4.XV")
def test_the_entries_stand_in_x_roads_order_with_its_comment() -> None:
    data = write_container(WHOLE, NOON_US)

    assert names(data) == [
        "mimetype",
        "message.xml",
        "META-INF/signatures.xml",
        "sig-hashchainresult.xml",
        "sig-hashchain.xml",
        "ts-hashchainresult.xml",
        "ts-hashchain.xml",
        "META-INF/manifest.xml",
        "META-INF/ASiCManifest.xml",
        "META-INF/timestamp.tst",
        "attachment1",
    ]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.comment == b"mimetype=application/vnd.etsi.asic-e+zip"
        assert {entry.date_time for entry in archive.infolist()} == {(2026, 11, 23, 12, 0, 0)}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}


@needs_vectors
def test_the_manifests_say_what_x_roads_say() -> None:
    with zipfile.ZipFile(VECTORS / "asice" / "valid-batch-ts.asice") as theirs:
        with zipfile.ZipFile(io.BytesIO(write_container(WHOLE, NOON_US))) as ours:
            for name in ("META-INF/manifest.xml", "META-INF/ASiCManifest.xml"):
                expected, found = etree.fromstring(theirs.read(name)), etree.fromstring(ours.read(name))
                assert (found.tag, found.attrib) == (expected.tag, expected.attrib)
                assert {child.tag for child in found} == {child.tag for child in expected}
                assert set(found[0].attrib) == set(expected[0].attrib)


def test_the_same_contents_give_the_same_bytes() -> None:
    assert write_container(WHOLE, NOON_US + 999_999) == write_container(WHOLE, NOON_US)


def test_a_single_stamp_is_embedded_and_nothing_else_is_added() -> None:
    data = write_container(Contents(message=HEAD, signature=DOCUMENT, stamp_token=b"token"), NOON_US)

    assert names(data) == ["mimetype", "message.xml", "META-INF/signatures.xml", "META-INF/manifest.xml"]
    assert b"<xades:EncapsulatedTimeStamp>dG9rZW4=<" in read_container(data).signature


@given(st.binary(max_size=400), st.lists(st.binary(max_size=400), max_size=12))
def test_what_is_written_reads_back(message: bytes, attachments: list[bytes]) -> None:
    found = read_container(write_container(Contents(message=message, signature=DOCUMENT, attachments=attachments), NOON_US))

    assert (found.message, found.signature, found.chain, found.stamp_token) == (message, DOCUMENT, None, None)
    assert found.attachments == {f"/attachment{at}": len(data) for at, data in enumerate(attachments, 1)}
    for at, data in enumerate(attachments, 1):
        assert found.digest(f"/attachment{at}", SHA512).value == sha512(data)
        assert b"".join(found.read_attachment(f"/attachment{at}")) == data


def test_a_body_of_zeros_that_we_wrote_is_no_bomb_to_us() -> None:
    body = bytes(8 << 20)

    found = read_container(write_container(Contents(message=HEAD, signature=DOCUMENT, attachments=[body]), NOON_US))

    assert found.attachments == {"/attachment1": len(body)}


def test_names_are_matched_without_case_and_unknown_entries_and_directories_are_left_alone() -> None:
    data = archive_of(("META-INF/", b""), ("Sig-HashChain.xml", b"x"), ("notes/readme", b"y"))

    assert read_container(data).chain == b"x"


def _mode(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, mode << 16

    return change


PLAIN = archive_of()
HOSTILE = {
    "a path upwards": archive_of(("../evil", b"")),
    "a path upwards inside": archive_of(("a/../../evil", b"")),
    "an absolute path": archive_of(("/etc/passwd", b"")),
    "a drive": archive_of(("C:evil", b"")),
    "a backslash": archive_of(("..\\evil", b"")),
    "an empty name": archive_of(("a//b", b"")),
    "a control character": archive_of(("a\nb", b"")),
    "a long name": archive_of(("a" * 300, b"")),
    "a symbolic link": archive_of(("attachment1", b"/etc/passwd"), change=_mode(0o120777)),
    "a device": archive_of(("attachment1", b""), change=_mode(0o020666)),
    "another packing": archive_of(("attachment1", b"x" * 100), method=zipfile.ZIP_LZMA),
    "names that differ in case": archive_of(("Message.XML", b"another")),
    "two signature documents": archive_of(("META-INF/signatures1.xml", DOCUMENT)),
    "a bomb of 1,000:1": archive_of(("attachment1", bytes(64 << 20))),
    "a large small entry": archive_of(("other", bytes(33 << 20)), method=zipfile.ZIP_STORED),
    "many entries": archive_of(*[(f"x{at}", b"") for at in range(ENTRIES_MAX)], method=zipfile.ZIP_STORED),
    "bytes in front": b"MZ" + PLAIN,
    "not a ZIP": b"hello",
    "nothing": b"",
    "cut short": PLAIN[:-30],
}


@pytest.mark.case("T07")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_archive_is_refused_quickly(name: str) -> None:
    began = time.perf_counter()

    with pytest.raises(ContainerError):
        read_container(HOSTILE[name])

    assert time.perf_counter() - began < 1.0


@pytest.mark.case("T07")
def test_the_same_name_twice_is_refused() -> None:
    output = io.BytesIO(PLAIN)
    with zipfile.ZipFile(output, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("message.xml", b"another message")

    with pytest.raises(ContainerError, match="two entries"):
        read_container(output.getvalue())


@pytest.mark.case("T07")
def test_an_entry_that_the_directory_does_not_name_is_found() -> None:
    """A reader of local headers (X-Road's) would see another message than a reader of the directory (ours)."""
    start = PLAIN.index(b"PK\x01\x02")
    hidden = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 0x21, 0, 4, 4, 11, 0) + b"message.xml" + b"evil"
    end = bytearray(PLAIN[PLAIN.index(b"PK\x05\x06") :])
    struct.pack_into("<I", end, 16, start + len(hidden))
    directory = PLAIN[start : PLAIN.index(b"PK\x05\x06")]

    with pytest.raises(ContainerError, match="between"):
        read_container(PLAIN[:start] + hidden + directory + bytes(end))


@pytest.mark.case("T07")
@given(st.integers(0, len(PLAIN) - 1), st.integers(1, 255))
def test_a_flipped_byte_gives_the_same_contents_or_one_named_error(at: int, mask: int) -> None:
    flipped = PLAIN[:at] + bytes((PLAIN[at] ^ mask,)) + PLAIN[at + 1 :]
    try:
        found = read_container(flipped)
    except ContainerError:
        return
    assert (found.message, found.signature) == (HEAD, DOCUMENT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_one_named_error(data: bytes) -> None:
    with pytest.raises(ContainerError):
        read_container(data)


def _in_local_header(data: bytes, name: bytes, at: int, value: bytes) -> bytes:
    """The archive with bytes of one entry's local header replaced; the directory stays as it was."""
    start = data.rindex(b"PK\x03\x04", 0, data.index(name))
    return data[: start + at] + value + data[start + at + len(value) :]


def _with_bytes_behind_a_stream(_: bytes) -> bytes:
    """message.xml's packed bytes end before its packed size does: an unzip that streams goes on there."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = stream.compress(HEAD) + stream.flush() + b"more"
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name, data in (("mimetype", MIMETYPE.encode()), ("message.xml", packed), ("META-INF/signatures.xml", DOCUMENT)):
            archive.writestr(name, data)
    data = output.getvalue()
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.rindex(mark, 0, data.index(b"message.xml", data.index(mark))) + at
        fields = struct.pack("<HHHIII", 8, 0, 33, zlib.crc32(HEAD), len(packed), len(HEAD))
        data = data[:start] + fields + data[start + len(fields) :]
    return data


def _with_a_longer_comment(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02") + 32
    return data[:at] + b"\x01\x00" + data[at + 2 :]


TWO_READINGS: dict[str, Callable[[bytes], bytes]] = {
    "another name in the local header": lambda data: _in_local_header(data, b"readme.txt", 30, b"message.xm"),
    "another size in the local header": lambda data: _in_local_header(data, b"readme.txt", 22, b"\x07\x00\x00\x00"),
    "another method in the local header": lambda data: _in_local_header(data, b"readme.txt", 8, b"\x00\x00"),
    "other flags in the local header": lambda data: _in_local_header(data, b"readme.txt", 6, b"\x08\x00"),
    "bytes behind the end record": lambda data: data + b"PK",
    "a comment cut short": lambda data: data[:-2] + b"\x09\x00",
    "bytes between directory and end record": lambda data: data[:-22] + b"\x00" * 4 + data[-22:],
    "fewer entries than the directory has": lambda data: data[:-14] + b"\x03\x00\x03\x00" + data[-10:],
    "a last entry whose comment is longer than the directory": _with_a_longer_comment,
    "bytes behind a stream's end": _with_bytes_behind_a_stream,
}


@pytest.mark.case("T07")
@pytest.mark.parametrize("name", list(TWO_READINGS))
def test_an_archive_that_two_unzip_programs_could_read_differently_is_refused(name: str) -> None:
    with pytest.raises(ContainerError) as refused:
        read_container(TWO_READINGS[name](archive_of(("readme.txt", b"nobody reads this one"))))

    assert refused.value.kind == "container.malformed", refused.value


@pytest.mark.case("T07")
def test_sizes_in_a_second_place_are_refused() -> None:
    def spoil(info: zipfile.ZipInfo) -> None:
        info.extra = struct.pack("<HHQQ", 1, 16, 1, 1)

    with pytest.raises(ContainerError):
        read_container(archive_of(("attachment1", b"x"), change=spoil))


@pytest.mark.case("T07")
def test_a_damaged_entry_that_nobody_reads_is_a_damaged_container() -> None:
    data = archive_of(("readme.txt", b"nobody reads this one"), method=zipfile.ZIP_STORED)

    with pytest.raises(ContainerError):
        read_container(data.replace(b"nobody reads", b"nobody READS"))


@pytest.mark.case("T07")
def test_many_entries_are_bounded_together() -> None:
    with pytest.raises(ContainerError) as refused:
        read_container(archive_of(*((f"{at}.bin", bytes(4 << 20)) for at in range(17))))

    assert refused.value.kind == "container.limit"
