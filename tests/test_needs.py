from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = """
from tests.fixtures import needs

needs.NEEDS["needs_moon"] = needs.Need(lambda: False, "there is no moon")
needs.NEEDS["needs_sun"] = needs.Need(lambda: True, "there is no sun")
"""
TESTS = """
import pytest

@pytest.mark.needs_moon
@pytest.mark.needs_sun
def test_tide():
    assert False

@pytest.mark.needs_sun
def test_day():
    pass
"""


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(("strict", "status"), [("", 0), ("1", 1)])
def test_a_test_that_lacks_something_is_deselected(
    tmp_path: Path, strict: str, status: int, processes: int
) -> None:
    """It is left out with the reason printed; with CI_STRICT that fails the run. In several processes too."""
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_sky.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.fixtures.needs", str(tmp_path)]
    command += ["-p", "xdist", "-n", str(processes)]
    # Other plugins would only take time to import.
    only = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | only | {"CI_STRICT": strict}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout
    assert "deselected: there is no moon (1 tests)" in done.stdout
    assert done.returncode == status
