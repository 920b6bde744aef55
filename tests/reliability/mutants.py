"""Damaged model folders and tables, each from its own seed, tried out in a child of the tests with little memory.

`python tests/reliability/mutants.py {models,tables} FOLDER FIRST LAST` tries the seeds FIRST to LAST - 1 on the sound
ones in FOLDER, and prints one line of JSON for each that broke a promise: with the seed alone a failure is seen again.
"""

import collections
import gc
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

SECONDS, MEMORY = 5, 1 << 30  # for one input; bytes above what the libraries take

NUMBERS = [0, 1, -1, 2, 3, 17, 255, 10**4, 10**6, 10**9, 2**31, 2**53, 2**63, 10**18, 10**30, 10**400, 1.5, -2.5]
GARBAGE = [
    *(*NUMBERS, 1e300, 5e-324, math.nan, math.inf, -math.inf, True, False, None),
    *(
        "",
        "x",
        "os.system",
        "\x00",
        "\ud800",
        "1",
        "64",
        "é" * 3,
        "x" * 100_000,
        "object",
        "datetime64[ns]",
        "S999999999",
    ),
    *([], {}, [1], [[1]], {"kind": "eval"}, {"kind": 1}, [0] * 10_000, {"a": {"b": {}}}, "float64", "category"),
    "S999999999",
]
NESTED = ["[" * n + "]" * n for n in (50, 100_000)] + ['{"a":' * 100_000 + "1" + "}" * 100_000]


class Exploit:
    """Unpickled, it would make the folder named in the environment."""

    def __reduce__(self):
        return os.mkdir, (os.environ["ISTHMUS_UNPICKLED"],)


def flip(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if data else 0):
        data[rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 600))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data, rng):
    at = rng.choice([0, 1, 7, 8, 9, rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)])
    return data[:at] if rng.random() < 0.7 else data[at:]


def garble(data, rng):
    at, count = rng.randrange(len(data) + 1), rng.choice([1, 4, 8, 100])
    noise = rng.choice(
        [rng.randbytes(count), b"\xff" * count, b"\x00" * count, b"9" * count, b"\xc3\x28", b"-1", b"\n"]
    )
    return data[:at] + noise + data[at + rng.choice([0, len(noise)]) :]


def splice(data, rng):
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice([data[:a] + data[b:], data[:b] + data[a:], data[b:] + data[:a]])


BYTES = [flip, flip, cut, garble, splice]


def leaves(value, path=()):
    """Where everything is in nested lists and dicts."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def change(record, rng):
    """One value replaced, removed, renamed or moved; the text, as some of it is no JSON that Python would write."""
    path = rng.choice([path for path in leaves(record) if path])
    owner = record
    for key in path[:-1]:
        owner = owner[key]
    key, old = path[-1], owner[path[-1]]
    what = rng.random()
    if what < 0.1:
        del owner[key]
    elif what < 0.15 and isinstance(owner, dict):
        owner[rng.choice(["x", "kind", "", "__class__", "model_fields"])] = owner.pop(key)
    elif what < 0.25:
        other = rng.choice([path for path in leaves(record) if path])
        found = record
        for step in other:
            found = found[step]
        owner[key] = json.loads(json.dumps(found))
    elif what < 0.4 and isinstance(old, (int, float)):
        owner[key] = rng.choice([old + 1, old - 1, -old, old * 10, float(old), str(old), old * 1000 + 1])
    elif what < 0.45:
        owner[key] = "NESTED"
        return json.dumps(record).replace('"NESTED"', rng.choice(NESTED))
    else:
        owner[key] = rng.choice(GARBAGE)
    return json.dumps(record)


def change_json(data, rng):
    return change(json.loads(data), rng).encode()


def change_header(data, rng):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = rng.choice(list(header))
    what = rng.random()
    if what < 0.2:
        header[name]["shape"] = rng.choice([[], [10**18], [2**32, 2**32], [0], [1, *header[name]["shape"]], [-1]])
    elif what < 0.4:
        header[name]["dtype"] = rng.choice(["F64", "F32", "BOOL", "I64", "U8", "F16", "BF16", "C64", "X"])
    elif what < 0.6:
        other = rng.choice(list(header))
        header[name], header[other] = header[other], header[name]
    text = (json.dumps(header) if what < 0.6 else change(header, rng)).encode()
    length = len(text) if rng.random() < 0.9 else rng.choice([0, 1, len(text) + 1, 2**31, 2**40, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + text + data[8 + size :]


def change_values(data, rng):
    """Sound files of unsound numbers."""
    import safetensors.torch
    import torch

    tensors = safetensors.torch.load(data)
    name = rng.choice(list(tensors))
    tensor = tensors[name].clone()
    if tensor.dtype == torch.bool:
        tensor = ~tensor if rng.random() < 0.5 else torch.tensor(rng.choices([True, False], k=tensor.numel()))
        tensor = tensor.reshape(tensors[name].shape)
    else:
        value = rng.choice([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300, -1e300, 1e-300, 1e30, 5e-324, 1e8])
        if rng.random() < 0.5:
            tensor.fill_(value)
        else:
            tensor.view(-1)[rng.randrange(tensor.numel())] = value
    return safetensors.torch.save({**tensors, name: tensor})


def replace_file(path, rng):
    """Something else of the same name, or nothing."""
    path.unlink()
    what = rng.choice(["nothing", "nothing", "folder", "pipe", "itself", "zeros", "null", "full folder", "text"])
    if what in {"folder", "full folder"}:
        path.mkdir()
        (path / "a").mkdir(exist_ok=what == "full folder")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "text":
        path.write_text("hello")
    elif what != "nothing":
        path.symlink_to({"itself": path, "zeros": "/dev/zero", "null": "/dev/null"}[what])


def mutate_model(folder, rng):
    from isthmus.store.folders import sign
    from isthmus.store.formats import SIGNED

    name = rng.choice(
        ["config.json"] * 5 + ["model.safetensors"] * 6 + ["metrics.json", "log.csv", "recipe.yaml", "SHA256SUMS"]
    )
    path = folder / name
    signed = (folder / "SHA256SUMS").exists()
    if not path.is_file() or rng.random() < 0.05:
        replace_file(rng.choice([p for p in folder.iterdir()]), rng)
        return
    ways = {".json": [change_json] * 8, ".safetensors": [change_header, change_header, change_values, change_values]}
    data = path.read_bytes()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        try:
            data = rng.choice(BYTES + ways.get(path.suffix, []))(data, rng)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
            data = flip(data, rng)  # already damaged beyond what the first way needs
        except Exception:  # noqa: BLE001 (of safetensors)
            data = flip(data, rng)
    path.write_bytes(data)
    if signed and rng.random() < 0.7:
        sign(folder, tuple(SIGNED))


def use_model(folder, sound, rng):
    import pandas as pd

    from isthmus import load, scoring

    fitted = load(folder)
    row = pd.read_json(io.StringIO((sound / "row.json").read_text()), orient="table")
    scores = scoring.score(fitted, row, density=rng.choice([None, *fitted.model.density.names]))
    if (scores["log_density"].isna() & scores.get("note", pd.Series([None])).isna()).any():
        raise AssertionError("a log density that is NaN")
    if fitted.model.context_columns is None:
        scoring.sample(fitted, 2)


def pickled(path, rng):
    """An array of objects, or an archive of one, that would be unpickled."""
    import numpy as np

    array = np.array([Exploit(), 1], dtype=object)
    if path.suffix == ".npz":
        np.savez(path, X=array, y=np.zeros(2))
    elif rng.random() < 0.5:
        np.save(path, array)
    else:
        path.write_bytes(pickle.dumps(Exploit()))


def change_numpy(data, rng):
    """Another header of the same length or a longer one."""
    end = 10 + struct.unpack("<H", data[8:10])[0]
    text = data[10:end].decode("latin1")
    values = ["(10**18,)", "(1000000000000,)", "(-1,)", "(8, 0)", "()", "(2**40, 2**40)", "'x'", "((((8))))", "(True,)"]
    for old, choices in (
        ("(8, 2)", ["(9, 2)", "(800000000, 2)", "(8, 200000000000)", "(4294967296, 4294967296)", *values]),
        ("'<f8'", ["'|O'", "'<U1000000000'", "'|S0'", "'<M8[ns]'", "'|V8'", "[('a', '<f8'), ('a', '<f8')]", "'<c16'"]),
        ("False", ["True", "None", "0"]),
    ):
        if rng.random() < 0.6:
            text = text.replace(old, rng.choice(choices))
    text = text.rstrip() + "\n"
    return data[:8] + struct.pack("<H", len(text)) + text.encode("latin1") + data[end:]


def change_npz(data, rng):
    """A sound archive of damaged arrays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    members[name] = rng.choice([change_numpy, flip, cut, garble])(members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member, content in members.items():
            archive.writestr(rng.choice([member, member, "../" + member, "x"]), content)
    return out.getvalue()


def mutate_table(path, rng):
    if rng.random() < 0.03:
        replace_file(path, rng)
        return
    if path.suffix in {".npy", ".npz"} and rng.random() < 0.1:
        pickled(path, rng)
        return
    ways = {".npy": [change_numpy] * 5, ".npz": [change_npz] * 5}
    data = path.read_bytes()
    for _ in range(rng.choice([1, 1, 2, 3])):
        try:
            data = rng.choice(BYTES + ways.get(path.suffix, []))(data, rng)
        except (ValueError, struct.error, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError):
            data = flip(data, rng)
    path.write_bytes(data)


def use_table(path, *_):
    from isthmus.data.tables import Schema, read_table

    frame = read_table(path)
    schema, _ = Schema.learn(frame)
    schema.encode(frame)


def one(kind, sound, seed, scratch):
    """Make and use the damaged input of a seed; returns how it went."""
    from isthmus import InputError

    rng = random.Random(seed)
    source = rng.choice(sorted(p for p in sound.iterdir() if (p / "model" if kind == "models" else p).exists()))
    target = Path(tempfile.mkdtemp(dir=scratch)) / ("model" if kind == "models" else source.name)
    if kind == "models":
        shutil.copytree(source / "model", target)
        mutate_model(target, rng)
    else:
        shutil.copyfile(source, target)
        mutate_table(target, rng)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        (use_model if kind == "models" else use_table)(target, source, rng)
    except InputError as error:
        reasons = []
        cause = error
        while cause is not None:
            reasons.append(type(cause).__name__)
            cause = cause.__cause__ or cause.__context__
        if any("MemoryError" in name for name in reasons) or "bad_alloc" in str(error):
            return "memory: " + str(error)
        if "\n" in str(error) or len(str(error)) > 2_000:
            return "not one line: " + str(error)[:300]
        return "refused"
    except BaseException as error:  # noqa: BLE001 (what the test is about)
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} at {last.filename}:{last.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree(target.parent, ignore_errors=True)
        if Path(os.environ["ISTHMUS_UNPICKLED"]).exists():
            print(json.dumps({"seed": seed, "went": "something was unpickled"}), flush=True)
    return "used"


def too_slow(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def main(kind, folder, first, last):
    import faulthandler
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # overflows of numbers made unsound
    signal.signal(signal.SIGALRM, too_slow)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ISTHMUS_UNPICKLED"] = str(Path(scratch) / "unpickled")
        for seed in range(10):
            one(kind, folder, seed, scratch)  # libraries are loaded
        for seed in range(first, last):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            print(seed, file=sys.stderr, flush=True)
            faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
            went = one(kind, folder, seed, scratch)
            faulthandler.cancel_dump_traceback_later()
            counts[went if went in {"used", "refused"} else "broken"] += 1
            if went not in {"used", "refused"}:
                print(json.dumps({"seed": seed, "went": went}), flush=True)
            if seed % 100 == 0:
                gc.collect()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
