"""`make check` stops at a known vulnerability, and at nothing else that an advisory service does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
ANSWERS = {
    "found": (
        'print(\'{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}]}\'); sys.exit(1)',
        1,
    ),
    "none": ('print(\'{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}\')', 0),
    "unknown": ('print(\'{"dependencies": [{"name": "a", "skip_reason": "not found"}]}\')', 0),
    "no network": ("sys.exit('requests.exceptions.ConnectionError: no route')", 0),
    "broken": ("sys.exit('ImportError: no such thing')", 1),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_only_a_vulnerability_or_a_failure_of_the_tool_stops_the_build(answer, tmp_path):
    code, wanted = ANSWERS[answer]
    (tmp_path / "pip_audit.py").write_text(f"import sys; {code}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == wanted, done.stderr
    assert len((done.stdout if wanted == 0 else done.stderr).splitlines()) >= 1
    if answer == "found":
        assert "PYSEC-1" in done.stderr
    if answer in {"unknown", "no network"}:
        assert "could be reached" in done.stdout
