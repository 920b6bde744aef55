"""Look up known vulnerabilities of the versions in constraints.txt, by pip-audit: exit code 1 where there is one.

Where no advisory service knows a version, as without a network to one, nothing was audited: that is said, and the build
goes on. `--strict`, for releases, fails then, and where only some of the versions are known.
"""

import json
import subprocess
import sys
from pathlib import Path

SECONDS = 20
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = ["pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
UNREACHABLE = ("ConnectionError", "ProxyError", "Timeout", "SSLError", "ServiceError", "HTTPError")
NOTHING = "NOTHING WAS AUDITED"


def main(*, strict: bool) -> str | int:
    """Audit, and return what to exit with."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return ended(f"{NOTHING}: no service answered within {SECONDS} s", complete=False, strict=strict)
    if not done.stdout:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if any(name in last for name in UNREACHABLE):
            return ended(f"{NOTHING}: no service could be reached ({last[:100]})", complete=False, strict=strict)
        return f"advisories: pip-audit failed\n{done.stderr}"
    packages = json.loads(done.stdout)["dependencies"]
    vulnerable = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    if vulnerable:
        return "\n".join(["advisories: vulnerable packages", *vulnerable])
    audited = sum("vulns" in p for p in packages)
    if not audited:
        message = f"{NOTHING}: no service that knows any of the {len(packages)} packages could be reached"
    else:
        message = f"{audited} of {len(packages)} packages audited; no vulnerability is known"
    return ended(message, complete=0 < audited == len(packages), strict=strict) or done.returncode


def ended(message: str, *, complete: bool, strict: bool) -> str | int:
    """Print how an audit without vulnerabilities ended, or return it as what fails."""
    if strict and not complete:
        return f"advisories: {message}; a release needs all packages audited"
    print(f"advisories: {message}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--strict"]):
        sys.exit("usage: audit.py [--strict]")
    sys.exit(main(strict=bool(sys.argv[1:])))
