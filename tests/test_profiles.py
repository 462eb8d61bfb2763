"""The laws are drawn as often as the profile of hypothesis says, in `make test` and in `make faults`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAW = "tests/memory/test_inmemory.py::TestMemory::test_l_d9_any_text_is_a_namespace_or_refused"


@pytest.mark.parametrize(("profile", "examples"), [("fast", 7), ("full", 250)])
def test_a_law_takes_its_share_of_the_examples_of_the_profile(profile: str, examples: int) -> None:
    """Mutant: `tests.postgres`, which conftest.py imports before it loads a profile, imports the laws."""
    words = ("-m", "pytest", LAW, "--hypothesis-profile", profile, "--hypothesis-show-statistics")
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"Stopped because settings.max_examples={examples}" in done.stdout
