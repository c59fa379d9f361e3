"""The release of this software, as reports and `xacbe status` tell it; a test holds it equal to pyproject.toml."""

VERSION = "0.1.0"
