"""Whether this is a nightly run (`make nightly`): the same tests with larger numbers."""

from __future__ import annotations

import os

DEEP = os.environ.get("XACBE_DEPTH") == "deep"  # noqa: TID251  a test's own switch
