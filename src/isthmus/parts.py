"""Scores and codes of a table larger than memory: a folder of Parquet parts, in the order of the rows.

A part holds the results of some consecutive row groups of one file. It is computed a piece at a time, written under a
temporary name and renamed, so a part that is there is complete, and the next run goes on with those that are missing.
`_manifest.json` in the folder says of which model and which input the parts are; others are refused.

Parts are computed one after the other, or by Ray Data: every actor holds the model and writes whole parts, so that
nothing but their numbers passes through Ray. The files must then be in one place for all machines.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from isthmus import scoring
from isthmus.data.tables import Parquet
from isthmus.data.tables.schema import NOTE
from isthmus.data.tables.stream import Run, count_missing, located, write_frames
from isthmus.disk import is_plain, read_plain, sweep, write_durably
from isthmus.errors import InputError
from isthmus.store import Fitted

__all__ = ["ENGINES", "Parts"]

Verb = Literal["score", "encode"]

ENGINES = ("local", "ray")
_ROWS = 2**17
_LARGEST_MANIFEST = 50_000_000  # bytes
_MANIFEST = "_manifest.json"  # what begins with _ is no part for those who read the folder as one table


@dataclass(frozen=True)
class Parts:
    """What is to be computed of a long table, and the folder it is written to.

    Args:
        fitted: the model and its record.
        table: the rows.
        folder: for the parts, `part-00000.parquet`, `part-00001.parquet`, ...; its parent must exist.
        verb: "score" or "encode", see `isthmus.scoring`.
        density: of the scores, a name of the model's density, or None for the usual one.
        per: of the scores of rows on a known surface, the unit of the density, or None for the usual one.
        rows: the least number of rows of a part, but for the last of a file.
        strict: whether one row that does not suit the model stops the run. If not, every part has a column `note`.

    Example:
        >>> import tempfile
        >>> from isthmus import fit, Recipe
        >>> from isthmus.data.tables import write_table
        >>> X = pd.DataFrame({"a": [0.0, 1.0, 2.1, 3.0], "b": [0.1, 0.9, 2.0, 3.1]})
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(X, Path(folder, "long.parquet"))
        ...     parts = Parts(fit(X, recipe=recipe), Parquet.open(folder), Path(folder, "scores"))
        ...     [list(parts.write()), list(parts.write()), parts.missing()]
        [[0], [], []]
    """

    fitted: Fitted
    table: Parquet
    folder: Path
    verb: Verb = "score"
    density: str | None = None
    per: str | None = None
    rows: int = _ROWS
    strict: bool = False

    def __len__(self) -> int:
        return len(self._runs)

    def path(self, part: int) -> Path:
        """Return the path where a part is, or will be."""
        return self.folder / f"part-{part:05}.parquet"

    def missing(self) -> list[int]:
        """Return the parts that are still to be computed.

        Raises:
            InputError: the density has no such evaluation; the folder holds something else, or parts of another model,
                input or density.
        """
        manifest, path = self._manifest(), self.folder / _MANIFEST
        try:
            if os.path.lexists(path):
                _compare(json.loads(read_plain(path, _LARGEST_MANIFEST)), manifest, self.folder)
                sweep(self.folder)
            else:
                self.folder.mkdir(exist_ok=True)
                if any(self.folder.iterdir()):
                    advice = "choose another name"
                    raise InputError(f"expected a new folder for the parts; got {self.folder}, which is not; {advice}")
                write_durably(path, json.dumps(manifest, indent=1).encode())
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"expected a folder for the parts; got {self.folder}: {error}; choose another") from error
        return [part for part in range(len(self)) if not is_plain(self.path(part))]

    def write(self, engine: str = "local") -> Iterator[int]:
        """Compute the missing parts, and say of each when it is there.

        Args:
            engine: "local", one after the other; or "ray", on the Ray cluster of `RAY_ADDRESS`, by default one that is
                started on this machine for as long as this takes.

        Raises:
            InputError: see `missing`; if `strict`, a row does not suit the model, and which; Ray is not installed.
        """
        if engine not in ENGINES:
            raise InputError(f"expected an engine among {', '.join(ENGINES)}; got {engine!r}; choose one of them")
        missing = self.missing()
        if engine == "ray":
            yield from _by_ray(self, missing)
            return
        for part in missing:
            self.write_part(part)
            yield part

    def write_part(self, part: int) -> None:
        """Compute one part.

        Raises:
            InputError: if `strict`, a row does not suit the model, and which.
        """
        frames = (self._result(first, frame) for first, frame in self.table.frames(self._runs[part]))
        schema = self.fitted.schema if self.verb == "encode" else None
        context = [column.name for column in schema.columns if column.role == "context"] if schema else []
        write_frames(frames, self.path(part), self.table.types(context))

    def unscored(self) -> int:
        """Count the rows of all parts that are there to which a note was given in place of numbers."""
        parts = (self.path(part) for part in range(len(self)))
        return sum(count_missing(path) for path in parts if path.exists())

    def _result(self, first: int, frame: pd.DataFrame) -> pd.DataFrame:
        try:
            if self.verb == "encode":
                result = scoring.encode(self.fitted, frame, strict=self.strict)
            else:
                result = scoring.score(self.fitted, frame, density=self.density, per=self.per, strict=self.strict)
        except InputError as error:
            check = lambda rows: scoring.tensors(self.fitted, rows)  # noqa: E731
            raise located(error, self.table, first, frame, check) from error
        return result if self.strict or NOTE in result else result.assign(**{NOTE: None})  # all parts are alike

    @property
    def _runs(self) -> Sequence[Run]:
        return self.table.runs(self.rows)

    def _manifest(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "density": self.fitted.model.evaluation(self.density) if self.verb == "score" else None,
            **self._unit(),
            "strictness": self.strict,
            "model": _fingerprint(self.fitted),
            "input": self.table.fingerprint(),
            "rows": [run.rows for run in self._runs],
        }

    def _unit(self) -> dict[str, str]:
        """Return the unit of the scores of rows on a known surface, where there are several."""
        schema = self.fitted.schema
        several = self.verb == "score" and schema is not None and schema.coordinates is not None
        return {"unit": self.fitted.density_unit(self.per).phrase} if several or self.per is not None else {}


def _compare(found: Any, expected: dict[str, Any], folder: Path) -> None:
    differing = [key for key in expected if not isinstance(found, dict) or found.get(key) != expected[key]]
    if differing:
        what = "another " + " and ".join(differing)
        raise InputError(f"expected parts of this run in {folder}; got those of {what}; choose another folder")


def _fingerprint(fitted: Fitted) -> str:
    """Return a hash that tells a model from another."""
    schema = None if fitted.schema is None else fitted.schema.model_dump_json()
    record = (fitted.recipe.dump(), str(fitted.latent), str(fitted.noise), schema, scoring.untrusted(fitted))
    digest = hashlib.sha256(repr(record).encode())
    for name, value in fitted.model.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Writer:
    """An actor of Ray Data that holds the model."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the parts of these numbers; an `InputError` is handed back, as Ray would wrap it."""
        errors = []
        for part in batch["part"]:
            try:
                self.parts.write_part(int(part))
                errors.append("")
            except InputError as error:
                errors.append(str(error))
        return {"part": batch["part"], "error": errors}


def _by_ray(parts: Parts, missing: Sequence[int]) -> Iterator[int]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("expected Ray for engine 'ray'; got none; pip install 'isthmus[ray]'") from error
    if not missing:
        return
    with _cluster(ray.init, ray.is_initialized, ray.shutdown):
        ray.data.DataContext.get_current().enable_progress_bars = False
        actors = min(len(missing), max(1, int(ray.cluster_resources().get("CPU", 1))))
        numbers = ray.data.from_items([{"part": part} for part in missing], override_num_blocks=len(missing))
        done = numbers.map_batches(
            _Writer, fn_constructor_args=(parts,), batch_size=1, compute=ray.data.ActorPoolStrategy(size=actors)
        )
        for row in done.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield int(row["part"])


@contextmanager
def _cluster(start: Callable[..., Any], running: Callable[[], bool], stop: Callable[[], None]) -> Iterator[None]:
    """Use a Ray that runs already, or start one that ends with this."""
    if running():
        yield
        return
    start(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        stop()
