"""Known vulnerabilities of the versions in constraints.txt, by pip-audit: exit code 1 where there is one.

Without an advisory service, as without a network, it says so and lets the build go on.
"""

import json
import subprocess
import sys
from pathlib import Path

SECONDS = 20
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = ["pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
UNREACHABLE = ("ConnectionError", "ProxyError", "Timeout", "SSLError", "ServiceError", "HTTPError")


def main() -> str | int:
    """What to exit with."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"advisories: no service answered within {SECONDS} s; nothing was audited")
        return 0
    if not done.stdout:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if any(name in last for name in UNREACHABLE):
            print(f"advisories: no service could be reached ({last[:100]}); nothing was audited")
            return 0
        return f"advisories: pip-audit failed\n{done.stderr}"
    packages = json.loads(done.stdout)["dependencies"]
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    audited = sum("vulns" in p for p in packages)
    unknown = "" if audited else "; no service that knows them could be reached"
    print(f"advisories: {audited} of {len(packages)} packages audited{unknown}; {len(found)} found")
    return "\n".join(found) if found else done.returncode


if __name__ == "__main__":
    sys.exit(main())
