"""Where the build takes its packages from: the mirrors of this machine's own apt, in both of its notations."""

from __future__ import annotations

import pytest

from image import tools
from image.tools import ImageError

ONE_LINE = """
# a comment
deb http://mirror.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian-security bookworm-security main
deb https://packages.example/tools bookworm main
"""
DEB822 = """Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
# pinned
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://deb.other.example/node
Suites: nodistro
"""


@pytest.mark.parametrize("lists", [ONE_LINE, DEB822, ONE_LINE + "\n\n" + DEB822])
def test_main_and_security_mirrors_are_found_and_other_repositories_left_out(lists: str) -> None:
    assert tools.mirrors(lists) == {"main": "http://mirror.example/debian", "security": "http://mirror.example/debian-security"}


def test_a_machine_without_a_debian_mirror_is_told_so() -> None:
    with pytest.raises(ImageError, match="no Debian mirror"):
        tools.mirrors("deb http://other.example/ubuntu jammy main")


def test_mkosi_gets_the_same_sources_with_the_tree_s_keyring() -> None:
    lines = ["deb [signed-by=/a.gpg,/b.gpg] http://mirror.example/debian trixie main"]

    assert tools.deb822(lines) == (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
