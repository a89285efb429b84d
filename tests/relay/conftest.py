"""Every test of the relay runs with shared prepared statements, and without."""

from __future__ import annotations

import pytest

from tests.relay import harness


@pytest.fixture(autouse=True, params=[0, 200], ids=["plain", "preparing"])
def _prepared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MAX_PREPARED", request.param)
