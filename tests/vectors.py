"""X-Road's own data, read in place beside the project: `shared/xroad-vectors`, or where XACBE_VECTORS points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "xroad-vectors"
VECTORS = Path(os.environ.get("XACBE_VECTORS", _BESIDE))  # noqa: TID251  a test's own switch

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the X-Road vectors are not at {VECTORS}")
