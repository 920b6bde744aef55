"""Measures of models of images: what their samples and reconstructions look like, and which images they find unlikely.

An image is judged by features of an extractor of `features.py`, one for all runs on a set: a recogniser trained on the
labelled training images is kept in `build/recognisers`, and its checksum stands in every row of results. Images
that a model makes are clipped to the range of pixels first. There are as many samples as test images, for precision and
recall depend on the numbers; `_floor` is what as many training images score.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.experiments.setting import Row, Spec, Value, finite
from benchmarks.features import (
    Classifier,
    Extractor,
    PrincipalComponents,
    Recogniser,
    RecogniserRecipe,
    load_inception,
    train_recogniser,
)
from benchmarks.fits import context, cost, dataset, fitted, refitted, thinned
from benchmarks.rivals import maf, nsf
from benchmarks.sets import Split
from isthmus.data import Dataset
from isthmus.data.images import Pixels
from isthmus.data.tables.pictures import grey_levels, png_grid, write_png
from isthmus.errors import InputError
from isthmus.flow import Context
from isthmus.metrics import fid_like, inception_score, precision_recall, reconstruction_mse
from isthmus.model import Model

__all__ = ["EXTRACTORS", "RIVALS", "auroc", "extractor", "measure_anomaly", "measure_images"]

RECOGNISERS = Path("build/recognisers")
GRIDS = Path("build/grids")
RIVALS: dict[str, Callable[..., Any]] = {"maf": maf, "nsf": nsf}

_IMAGES = 10_000  # judged, at most
_SCORED = 200  # images whose density is sampled
_AT_ONCE = 500
_COMPONENT_ROWS = 5_000  # of which principal components are taken
_SHOWN, _ACROSS = 100, 10  # images of a grid


def _labels(data: Dataset, rows: Context) -> Tensor:
    if rows is None:
        raise InputError(f"expected labels for a recogniser; got none of {data.name}; set data.labels, or take others")
    return rows.argmax(1)


def _recogniser(data: Dataset, given: Spec, options: Spec) -> Recogniser:
    """That of a set, trained once and kept."""
    recipe, labels = RecogniserRecipe(**options), _labels(data, data.train_context)
    described = {key: value for key, value in given.items() if key != "test_rows"}
    record = json.dumps([described, asdict(recipe), torch.__version__], sort_keys=True, default=str)
    file = RECOGNISERS / f"{data.name}-{hashlib.sha256(record.encode()).hexdigest()[:12]}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        train_recogniser(data.train, labels, _shape(data), recipe).save(file)
    return Recogniser.load(file)


def _principal(data: Dataset, _: Spec, options: Spec) -> PrincipalComponents:
    return PrincipalComponents.of(thinned(data.train, _COMPONENT_ROWS), _shape(data), **options)


def _inception(data: Dataset, _: Spec, options: Spec) -> Extractor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_inception(_shape(data), **options).to(device)


# Name -> function of the data, of what they were asked for by, and of options.
EXTRACTORS: dict[str, Callable[[Dataset, Spec, Spec], Extractor]] = {
    "recogniser": _recogniser,
    "principal": _principal,
    "inception": _inception,
}


def _shape(data: Dataset) -> tuple[int, int, int]:
    if data.image is None:
        raise InputError(f"expected a set of images; got {data.name}; use measure fit")
    return data.image


def extractor(spec: Spec, data: Dataset) -> Extractor:
    """The extractor of `spec["features"]`, a `kind` of `EXTRACTORS` with its options, for the data of the spec."""
    options = dict(spec["features"])
    return EXTRACTORS[options.pop("kind")](data, spec["data"], options)


@dataclass(frozen=True)
class Judge:
    """An extractor, the images that others are compared with, and their features."""

    extractor: Extractor
    images: Tensor
    features: Tensor

    @classmethod
    def of(cls, extractor: Extractor, images: Tensor) -> "Judge":
        """One that compares with these."""
        return cls(extractor, images, extractor.features(images))

    def distance(self, images: Tensor) -> float:
        """Frechet distance of the features."""
        return fid_like(self.extractor.features(_clipped(images)), self.features)

    def judged(self, images: Tensor) -> dict[str, Value]:
        """Everything about images a model drew; what it drew that is no number is left out, and counted."""
        found = images.isfinite().all(1)
        kept = _clipped(images[found])
        features = self.extractor.features(kept)
        values: dict[str, Value] = {"not_finite": int((~found).sum()), "feature_fid": fid_like(features, self.features)}
        values |= precision_recall(features, self.features)._asdict()
        if isinstance(self.extractor, Classifier):
            probabilities = self.extractor.probabilities(kept).double()
            values["inception_score"] = inception_score(probabilities, splits=min(10, len(kept)))
        return values


def _clipped(images: Tensor) -> Tensor:
    return images.clamp(0, 1)


def _in_parts(function: Callable[[Tensor, Context], Tensor], x: Tensor, c: Context) -> Tensor:
    parts = x.split(_AT_ONCE)
    contexts: Iterable[Context] = [None] * len(parts) if c is None else c.split(_AT_ONCE)
    return torch.cat([function(part, c) for part, c in zip(parts, contexts, strict=True)])


def _draw(model: Model, n: int, c: Context, seed: int) -> Tensor:
    """Images on the manifold, some at a time; with a context one for each of its rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 + seed)
        return _in_parts(lambda x, c: model.sample(len(x), c, noise=False), torch.empty(n, 0), c)


def measure_images(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit a recipe to images, and judge what it draws with each latent density, and what it reconstructs.

    `spec` holds `data` (a set of images, dequantised, without logit), `recipe`, `features` (see `extractor`), `refits`
    (name -> a recipe's section `density`, all with the same trained networks), and what may be left out: `conditional`
    (whether the model is told the class), `samples` (10,000), `scored` (200), `pixel_rows` (10,000; the distance of
    pixels is dear where there are thousands of them) and `grid` (a name: samples of each sampler are drawn into
    `build/grids`, a line a class). One row for the networks, with their cost and

    * `recognised`: share of test images that the recogniser names rightly; `extractor`: its checksum;
    * `reconstruction`: squared error of a test image, summed over pixels; `reconstruction_per_pixel`;
    * `fid_like_reconstructed`: Frechet distance of pixels of reconstructed test images; `feature_fid_reconstructed`:
      that of features; `feature_fid_floor`: of features of training images;

    then one for each refit, label `sampler`:

    * `feature_fid`, `precision`, `recall`, `inception_score`: of samples on the manifold against test images;
      `named_as_asked`: of a conditional model, the share of samples in which the recogniser finds the class asked for;
    * `bits`: an upper bound of the bits per dimension of test images, by importance sampling; `bits_error`: its
      standard error over images.
    """
    data, found = fitted(spec, seed)
    model, told = found.model, context(spec, data.train_context)
    most = spec.get("samples", _IMAGES)
    test, c = thinned(data.test, most), thinned(context(spec, data.test_context), most)
    judge = Judge.of(extractor(spec, data), test)
    shared = {**cost(found), **_extracted(judge.extractor, data), **_reconstructed(model, judge, c, spec)}
    yield Row({}, {**shared, "feature_fid_floor": judge.distance(thinned(data.train, len(test)))})
    for name, density in spec.get("refits", {"own": {}}).items():
        start = time.perf_counter()
        model, kinds = refitted(found, data.train, told, density, seed)
        samples = _draw(model, len(test), c, seed)
        if "grid" in spec:
            _show(samples, c, _shape(data), f"{spec['grid']}-{data.name}-{name}-{seed}")
        values = {**kinds, **judge.judged(samples), **_bits(model, test, c, spec.get("scored", _SCORED))}
        if c is not None and isinstance(judge.extractor, Recogniser):
            values["named_as_asked"] = judge.extractor.accuracy(_clipped(samples).nan_to_num(), c.argmax(1))
        yield Row({"sampler": name}, {**values, "refit_seconds": time.perf_counter() - start})


def _show(samples: Tensor, c: Context, shape: tuple[int, int, int], name: str) -> None:
    """Some of the samples as a picture; of those given a class, each line is one."""
    shown = samples[:_SHOWN]
    if c is not None:
        labels = c.argmax(1)
        shown = torch.cat([samples[labels == label][:_ACROSS] for label in labels.unique()])
    levels = grey_levels(_clipped(shown).nan_to_num().unflatten(1, shape).numpy(), span=(0.0, 1.0))
    GRIDS.mkdir(parents=True, exist_ok=True)
    write_png(png_grid(levels, _ACROSS), GRIDS / f"{name}.png")


def _extracted(extractor: Extractor, data: Dataset) -> dict[str, Value]:
    """What there is to know about an extractor."""
    values: dict[str, Value] = {"extractor": extractor.checksum[:12]}
    if isinstance(extractor, Recogniser):
        values["recognised"] = extractor.accuracy(data.test, _labels(data, data.test_context))
    return values


def _reconstructed(model: Model, judge: Judge, c: Context, spec: Spec) -> dict[str, Value]:
    """How near reconstructions are, by pixels and by features."""
    test, rows = judge.images.double(), spec.get("pixel_rows", _IMAGES)
    reconstructed = _in_parts(model.reconstruct, test, c)
    error = reconstruction_mse(test, reconstructed)
    return {
        "reconstruction": error,
        "reconstruction_per_pixel": error / test.shape[1],
        "fid_like_reconstructed": fid_like(thinned(reconstructed, rows), thinned(test, rows)),
        "feature_fid_reconstructed": judge.distance(reconstructed),
    }


def _bits(model: Model, test: Tensor, c: Context, rows: int) -> dict[str, Value]:
    """Bits per dimension of some test images."""
    x = thinned(test, rows).double()
    bits = Pixels().bits_per_dimension(model.estimate(x, thinned(c, rows)).value, x)
    return {"bits": finite(float(bits.mean())), "bits_error": finite(float(bits.std() / len(bits) ** 0.5))}


def auroc(usual: Tensor, unusual: Tensor) -> float:
    """How often a score of unusual rows is above one of usual rows; ties count half, what is no number as below.

    Example:
        >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, torch.inf]))
        0.875
    """
    above = unusual[:, None] > usual
    return float((above + 0.5 * (unusual[:, None] == usual)).mean())


def measure_anomaly(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit a recipe to images of one set, and tell its test images from those of another.

    `spec` holds `data`, `against` (a set of images of the same shape), `recipe`, and what may be left out: `scored`
    (200 images of either set). Or, in place of the recipe, a flow of the whole space: `rival`, a name in `RIVALS`, is
    trained for `budget` seconds. One row a score, label `score`: `ambient` (importance-sampled log density),
    `linearised` (the same with the decoder replaced by its tangent) and `reconstruction` (squared error); of a rival
    `ambient` alone. Values: `auroc`, the area under the ROC curve, 0.5 for chance and 1 for telling all apart; `usual`
    and `unusual`, means of the score over either set (bits per dimension, or the squared error).
    """
    data, found, scores = _rival_scores(spec, seed) if "rival" in spec else _fit_scores(spec, seed)
    other, n = dataset(spec["against"]), spec.get("scored", _SCORED)
    if other.image != data.image:
        raise InputError(f"expected images of equal shape; got {data.image} and {other.image}; choose another set")
    for name, score in scores.items():
        start = time.perf_counter()
        usual, unusual = (score(thinned(rows, n).double()) for rows in (data.test, other.test))
        means = {"usual": finite(float(usual.mean())), "unusual": finite(float(unusual.mean()))}
        seconds = {"score_seconds": time.perf_counter() - start}
        yield Row({"score": name}, {**found, "auroc": auroc(usual, unusual), **means, **seconds})


_Scores = tuple[Dataset, dict[str, Value], dict[str, Callable[[Tensor], Tensor]]]


def _fit_scores(spec: Spec, seed: int) -> _Scores:
    data, found = fitted(spec, seed)
    model = found.model

    def bits(log_prob: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Of images, by a log density of them."""
        return lambda x: Pixels().bits_per_dimension(_in_parts(lambda x, _: log_prob(x), x, None), x)

    scores = {
        "ambient": bits(lambda x: model.estimate(x).value),
        "linearised": bits(model.log_prob),
        "reconstruction": lambda x: (x - _in_parts(model.reconstruct, x, None)).square().sum(1),
    }
    return data, cost(found), scores


def _rival_scores(spec: Spec, seed: int) -> _Scores:
    data, start = dataset(spec["data"]), time.perf_counter()
    rows = data.train.double().numpy()
    spread = rows.std(0)
    split = Split(
        raw=rows,
        spread=rows,
        held_out=data.test.double().numpy(),
        integer=np.zeros(rows.shape[1], dtype=bool),
        kept=spread > 0,
        mean=rows.mean(0),
        scale=np.where(spread > 0, spread, 1.0),
    )
    log_density, record = RIVALS[spec["rival"]](split, seed, spec["budget"])

    def bits(x: Tensor) -> Tensor:
        """Of images, whose columns the flow has standardised."""
        log_prob = torch.from_numpy(log_density(split.standardise(x.numpy()))) - split.log_scale
        return Pixels().bits_per_dimension(log_prob, x)

    found = {key: value for key, value in record.items() if isinstance(value, int | float)}
    return data, {**found, "seconds": time.perf_counter() - start}, {"ambient": bits}
