"""Write docs/reliability.md from what the tests of the promises tallied: `make soak` runs them in full, then this."""

import itertools
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPENING = """# Reliability

What is promised, how often it was tried, and how often it held. `make soak` tries everything again and writes this
page; `pytest -m reliability`, a part of `make test`, tries a smaller number each time. A compressed table is read up to
the size that `--max-unpacked` allows, 4 GiB unless told otherwise, whatever stands below about mutated files.

Tried {form} on {when}: isthmus {isthmus}, torch {torch}, Python {python}, {system}.
"""


def table(tallies):
    """The lines of the page, one table a part."""
    for part, lines in itertools.groupby(sorted(tallies, key=lambda t: t["part"]), lambda t: t["part"]):
        yield f"\n## {part}\n\n| promise | tried | held | figures | seconds |\n|---|---:|---:|---|---:|\n"
        for line in lines:
            figures = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in line["figures"].items())
            cells = (line["promise"], f"{line['tried']:,}", f"{line['kept']:,}", figures, f"{line['seconds']:.0f}")
            yield f"| {' | '.join(cells)} |\n"


def main():
    files = sorted((ROOT / "build" / "reliability").glob("*.jsonl"))
    tallies = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if not tallies:
        sys.exit("expected tallies in build/reliability; got none; run `make soak`")
    versions = {name: version(name) for name in ("isthmus", "torch")}
    system = f"{platform.system()} {platform.machine()}"
    form = "in full" if all(t.get("in full") for t in tallies) else "in a smaller number"
    opening = OPENING.format(
        form=form, when=time.strftime("%Y-%m-%d"), python=platform.python_version(), system=system, **versions
    )
    (ROOT / "docs" / "reliability.md").write_text(opening + "".join(table(tallies)))


if __name__ == "__main__":
    main()
