from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder to use as TMPDIR; pytest's names are too long for sockets below them."""
    with tempfile.TemporaryDirectory(prefix="test-", ignore_cleanup_errors=True) as name:
        yield Path(name)
