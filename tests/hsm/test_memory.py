"""Memory with secrets is locked; programs, which hold none, are let go again. Locking itself is seen in the image (`tests/image/boots`)."""

from __future__ import annotations

from pathlib import Path

from appliance.hsm.memory import _read_only_files


def test_only_what_shows_a_file_and_cannot_be_written_is_let_go() -> None:
    maps = Path("/proc/self/maps").read_text()
    lines = {tuple(int(end, 16) for end in line.split()[0].split("-")): line for line in maps.splitlines()}

    let_go = [lines[found] for found in _read_only_files(maps)]

    assert any("libc" in line and "r-xp" in line for line in let_go)
    assert all("/" in line and "w" not in line.split()[1] for line in let_go)
    assert not any(name in line for line in let_go for name in ("[heap]", "[stack]"))
    assert len(let_go) < len(lines)


def test_a_file_with_a_blank_in_its_name_is_a_file() -> None:
    assert list(_read_only_files("1000-2000 r--p 00000000 fe:00 12 /a place/lib.so\n3000-4000 rw-p 00000000 00:00 0 \n")) == [
        (0x1000, 0x2000)
    ]
