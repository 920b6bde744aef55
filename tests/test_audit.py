"""What is installed: `make check` stops at a known vulnerability, a release also where nobody could be asked; the lock
file has a hash for every package of constraints.txt but those that depend on the machine.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
AUDIT = ROOT / ".ci" / "audit.py"
KNOWN = '{"name": "a", "version": "1", "vulns": []}'
UNKNOWN = '{"name": "b", "skip_reason": "not found"}'
VULNERABLE = '{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}'
ANSWERS = {  # of pip-audit: what it runs, what it exits with, and the same in strict mode
    "vulnerable": (f"print('{{\"dependencies\": [{VULNERABLE}]}}'); sys.exit(1)", 1, 1),
    "vulnerable and unknown": (f"print('{{\"dependencies\": [{VULNERABLE}, {UNKNOWN}]}}'); sys.exit(1)", 1, 1),
    "none": (f"print('{{\"dependencies\": [{KNOWN}]}}')", 0, 0),
    "some unknown": (f"print('{{\"dependencies\": [{KNOWN}, {UNKNOWN}]}}')", 0, 1),
    "all unknown": (f"print('{{\"dependencies\": [{UNKNOWN}]}}')", 0, 1),
    "no package": ("print('{\"dependencies\": []}')", 0, 1),
    "no network": ("sys.exit('requests.exceptions.ConnectionError: no route')", 0, 1),
    "broken": ("sys.exit('ImportError: no such thing')", 1, 1),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_vulnerability_stops_the_build_and_an_audit_of_nothing_a_release(answer, strict, tmp_path):
    code, *wanted = ANSWERS[answer]
    (tmp_path / "pip_audit.py").write_text(f"import sys; {code}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, AUDIT, *(["--strict"] if strict else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == wanted[strict], done.stderr
    said = done.stderr if done.returncode else done.stdout
    assert said.startswith("advisories: ")
    assert ("PYSEC-1" in said) == answer.startswith("vulnerable")
    assert ("NOTHING WAS AUDITED" in said) == (answer in {"all unknown", "no package", "no network"})


def test_every_package_but_those_of_the_machine_is_locked_by_its_hashes():
    pinned = set(ROOT.joinpath("constraints.txt").read_text().splitlines())
    entries = re.split(r"\n(?=\S)", ROOT.joinpath("lock.txt").read_text().strip())
    locked = {entry.partition(" \\\n")[0] for entry in entries}
    assert locked < pinned
    assert all(re.fullmatch(r"\S+==.+(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+", entry) for entry in entries)
    assert {re.split("[=-]", line)[0] for line in pinned - locked} == {"torch", "triton", "cuda", "nvidia"}


def test_every_requirement_is_pinned_at_a_version_that_it_allows():
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]
    pins = [Requirement(line) for line in ROOT.joinpath("constraints.txt").read_text().splitlines()]
    versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    extras = project["optional-dependencies"]
    wanted = sum((extras[name] for name in ("explore", "ray", "docs", "test")), project["dependencies"])
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
