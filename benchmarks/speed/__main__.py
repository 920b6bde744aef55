"""The command line of `benchmarks.speed`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import benchmarks.speed
from benchmarks.speed import machine
from benchmarks.speed.cases import CASES, Setting
from benchmarks.speed.curves import curves
from benchmarks.speed.fits import fits
from benchmarks.speed.page import plain
from benchmarks.speed.record import alone, import_seconds, measure


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(
        "benchmarks.speed", description=benchmarks.speed.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="by default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed steps in each round")
    parser.add_argument("--no-processes", action="store_true", help="leave out memory and compilation")
    parser.add_argument("--reference", type=Path, help="a checkout of the publication's code")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--mode", help="of torch.compile; reduce-overhead records CUDA graphs")
    parser.add_argument("--fit", type=int, nargs="?", const=2000, metavar="STEPS", help="compare whole fits instead")
    parser.add_argument("--curves", action="store_true", help="measure how cost grows instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--append", type=Path, help="file that gets one JSON line a record")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA device for --device cuda; got none here; run it where there is one")
    return options


def records(options: argparse.Namespace, setting: Setting) -> Iterator[dict[str, Any]]:
    """What was asked for, one after the other."""
    if options.fit is not None:
        yield fits(options.fit)
    elif options.curves:
        yield from curves(setting)
    else:
        imports = import_seconds()
        common = {"rounds": options.rounds, "steps": options.steps, "checkout": options.reference}
        for name in options.case or CASES:
            record = measure(name, setting, processes=not options.no_processes, **common)
            yield record | {"import_seconds": imports}


def main(given: list[str] | None = None) -> None:
    """Measure, and print a table or JSON."""
    options = arguments(given)
    torch.set_num_threads(1)
    setting = Setting(options.device, options.precision, options.mode)
    if options.alone:
        print(json.dumps(alone(*options.alone, setting)))
        return
    found = []
    for record in records(options, setting):
        found.append(record | {"machine": machine(setting.device), "finished": time.strftime("%Y-%m-%d %H:%M:%S")})
        if options.append:
            with options.append.open("a") as file:
                file.write(json.dumps(found[-1], allow_nan=False) + "\n")
        if not options.json:
            print(plain(found[-1]), flush=True)
    if options.json:
        json.dump(found, sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
