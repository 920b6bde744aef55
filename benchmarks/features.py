"""What images are judged by: numbers that a network finds in them, instead of their pixels.

Two images of the same thing may differ in every pixel, so distances between sets of images are taken between features
of theirs: `isthmus.metrics.fid_like` of features is the Frechet distance of the literature, `precision_recall` goes
beside it, and `inception_score` takes the probabilities of a classifier. Three extractors:

* `Recogniser`, a small classifier of the labelled set itself, which `train_recogniser` makes in a minute or two;
* `Inception`, the network of published values, from weights on the user's disk, see `load_inception`;
* `PrincipalComponents`, for sets without labels: linear, so that it sees means and covariances of pixels and no more.

An image is a flat row of channels x height x width pixels in [0, 1]. Values by different extractors cannot be compared,
so an extractor has a `checksum`, to be recorded with every value. Nothing is downloaded.

A new extractor is a subclass of `Extractor`, or of `Classifier` where it knows classes too.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import safetensors
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from isthmus.data.fetch import data_folder
from isthmus.disk import write_durably
from isthmus.errors import InputError
from isthmus.networks.chains import Wiring, check_shape, normalised

__all__ = [
    "Classifier",
    "Extractor",
    "Inception",
    "PrincipalComponents",
    "Recogniser",
    "RecogniserRecipe",
    "load_inception",
    "train_recogniser",
]

Shape = tuple[int, int, int]

_ROWS = 500  # at once
_SMALL = 4  # side at which a recogniser stops halving
_MOST_DOUBLINGS = 2  # of its channels
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_SHA256 = "6726825d"  # it begins with this
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION}"


class Extractor(nn.Module, ABC):
    """The contract of an extractor.

    Implementing one:

    * call `super().__init__(shape)`;
    * write `_features(x)` for some rows at once;
    * keep everything that it computes with in parameters and buffers, which the checksum covers.

    Args:
        shape: (channels, height, width) of the images.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = check_shape(shape, math.prod(shape))

    @abstractmethod
    def _features(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        """Features of some checked rows in float32."""

    def features(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        """The features of images.

        Args:
            x: (n, channels x height x width), pixels in [0, 1].

        Returns:
            (n, F) in float32.

        Raises:
            InputError: the rows are no such images.
        """
        return self._by_rows(self._features, x)

    @property
    def checksum(self) -> str:
        """SHA-256 of names, shapes and bytes of all weights, hexadecimal."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def _by_rows(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of checked rows, some at a time, on the device of the weights."""
        check_pixels(x, self.shape)
        device = next(iter(self.state_dict().values()), x).device
        return torch.cat([function(part.to(device, torch.float32)) for part in x.split(_ROWS)])


class Classifier(Extractor):
    """An extractor that knows classes too."""

    @abstractmethod
    def _probabilities(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        """Probabilities of some checked rows in float32."""

    def probabilities(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        """The probability of each class for each image; see `features`."""
        return self._by_rows(self._probabilities, x)


def check_pixels(x: Float[Tensor, "n D"], shape: Shape) -> None:
    """Refuse rows that are no images of this shape with pixels in [0, 1].

    Raises:
        InputError: as it says.

    Example:
        >>> check_pixels(torch.rand(2, 64), (1, 8, 8))
    """
    if x.ndim != 2 or not len(x) or x.shape[1] != math.prod(shape):
        raise InputError(
            f"expected images of {shape} as rows of {math.prod(shape)} pixels; got shape {tuple(x.shape)}; flatten them"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise InputError(f"expected pixels in [0, 1]; got {float(x.min()):g} to {float(x.max()):g}; rescale, or clip")


@dataclass(frozen=True)
class RecogniserRecipe:
    """How a recogniser is made; recorded in its file.

    Attributes:
        steps: of the optimiser, >= 1.
        batch_size: images a step.
        width: channels after the first convolution.
        dim: features.
        learning_rate: the highest of a one-cycle schedule of AdamW.
        shift: pixels by which images are moved at random in training, 0 for none.
        seed: of weights, batches and shifts.

    Raises:
        InputError: a number is out of its range.

    Example:
        >>> RecogniserRecipe(steps=100).batch_size
        128
    """

    steps: int = 1_500
    batch_size: int = 128
    width: int = 32
    dim: int = 128
    learning_rate: float = 3e-3
    shift: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.width, self.dim)
        if min(counts) < 1 or not 0 < self.learning_rate < math.inf or self.shift < 0:
            raise InputError(
                f"expected positive numbers, and a shift >= 0, for a recogniser; got {self}; see RecogniserRecipe()"
            )


@final
class Recogniser(Classifier):
    """A small convolutional classifier; its features are the last layer before the classes.

    Convolutions that halve the image until no side is above four, each with GroupNorm and SiLU.

    Args:
        shape: (channels, height, width) of the images, any.
        classes: how many, >= 2.
        recipe: how it is made.

    Example:
        >>> recogniser = Recogniser((1, 8, 8), 10, RecogniserRecipe(width=8, dim=16))
        >>> x = torch.rand(5, 64)
        >>> recogniser.features(x).shape, recogniser.probabilities(x).shape
        (torch.Size([5, 16]), torch.Size([5, 10]))
    """

    def __init__(self, shape: Shape, classes: int, recipe: RecogniserRecipe) -> None:
        super().__init__(shape)
        if classes < 2:
            raise InputError(f"expected at least 2 classes; got {classes}; take principal components without labels")
        self.classes, self.recipe = classes, recipe
        channels, *sides = self.shape
        halvings = max(2, (-(-max(sides) // _SMALL) - 1).bit_length())
        widths = [recipe.width << min(k, _MOST_DOUBLINGS) for k in range(halvings)]
        height, width = (-(-side // 2**halvings) for side in sides)
        plain = Wiring(0, "film")
        self.trunk = nn.Sequential(
            nn.Unflatten(1, self.shape),
            *(
                layer
                for before, after in pairwise([channels, *widths])
                for layer in normalised(nn.Conv2d(before, after, 3, 2, 1), after, plain)
            ),
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, recipe.dim),
            nn.SiLU(),
        )
        self.head = nn.Linear(recipe.dim, classes)

    def forward(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        """Logits of the classes."""
        return self.head(self.trunk(x))

    def _features(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        return self.trunk(x)

    def _probabilities(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        return self(x).softmax(1)

    def classify(self, x: Float[Tensor, "n D"]) -> Int[Tensor, " n"]:
        """The most probable class of each image, (n,)."""
        return self.probabilities(x).argmax(1)

    def accuracy(self, x: Float[Tensor, "n D"], labels: Int[Tensor, " n"]) -> float:
        """The share of images whose most probable class is their label; best of images it was not trained on."""
        return float((self.classify(x).cpu() == labels.cpu()).double().mean())

    def save(self, path: str | Path) -> None:
        """Write shape, recipe and weights as safetensors; a file of this name is replaced, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        record = json.dumps({"shape": self.shape, "classes": self.classes, "recipe": asdict(self.recipe)})
        weights = {name: t.contiguous() for name, t in self.state_dict().items()}
        try:
            write_durably(Path(path), to_bytes(weights, {"recogniser": record}))
        except OSError as error:
            raise InputError(f"could not write {path}: {error}; choose another folder") from error

    @classmethod
    def load(cls, path: str | Path) -> "Recogniser":
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or something else in it.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                record = json.loads(file.metadata()["recogniser"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            with torch.device("meta"):  # so that a damaged record asks for no memory
                found = cls(tuple(record["shape"]), record["classes"], RecogniserRecipe(**record["recipe"]))
            if not all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("weights that are not finite, or not of float32")
            found.load_state_dict(tensors, assign=True)
        except (OSError, safetensors.SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"expected a recogniser in {path}; got {reason}; train it again") from error
        return found.eval().requires_grad_(requires_grad=False)


def train_recogniser(
    x: Float[Tensor, "n D"], labels: Int[Tensor, " n"], shape: Shape, recipe: RecogniserRecipe | None = None
) -> Recogniser:
    """Train a recogniser on labelled images, by cross-entropy, on one thread of the CPU.

    Args:
        x: training images, (n, channels x height x width), pixels in [0, 1].
        labels: class of each, 0 and up, (n,).
        shape: (channels, height, width).
        recipe: how; the defaults are for images as MNIST has them.

    Returns:
        The recogniser; equal arguments give equal weights on the same machine.

    Raises:
        InputError: the rows are no such images, or the labels do not suit them.

    Example:
        >>> x, labels = torch.rand(40, 16) * 0.1, torch.arange(40) % 2
        >>> x[labels == 1, :8] += 0.5
        >>> recipe = RecogniserRecipe(steps=100, width=16, shift=0)
        >>> train_recogniser(x, labels, (1, 4, 4), recipe).accuracy(x, labels)
        1.0
    """
    recipe = recipe or RecogniserRecipe()
    check_pixels(x, shape)
    if labels.shape != (len(x),) or int(labels.min()) < 0:
        got = f"shape {tuple(labels.shape)}, from {labels.min()}"
        raise InputError(f"expected a label >= 0 for each of {len(x)} images; got {got}; give one each")
    with _one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        found = Recogniser(shape, int(labels.max()) + 1, recipe)
        optimizer = torch.optim.AdamW(found.parameters(), recipe.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
        for _ in range(recipe.steps):
            index = torch.randint(len(x), (recipe.batch_size,))
            logits = found(_shifted(x[index].float(), shape, recipe.shift))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels[index].long()).backward()
            optimizer.step()
            schedule.step()
    return found.eval().requires_grad_(requires_grad=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shifted(x: Float[Tensor, "n D"], shape: Shape, most: int) -> Float[Tensor, "n D"]:
    """Each image moved by its own whole number of pixels in either direction, its edges repeated."""
    if not most:
        return x
    n, (_, height, width) = len(x), shape
    padded = nn.functional.pad(x.unflatten(1, shape), (most,) * 4, mode="replicate")
    rows, columns = (torch.randint(2 * most + 1, (n, 1)) + torch.arange(side) for side in (height, width))
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(3, 1).flatten(1)


@final
class PrincipalComponents(Extractor):
    """The leading principal coordinates of the pixels, not whitened: for sets of images without labels.

    The Frechet distance of these is the FID-like distance of pixels without the directions in which the training images
    hardly vary. It knows nothing of what the images show.

    Args:
        shape: (channels, height, width) of the images.
        dim: coordinates, 1 .. D.

    Example:
        >>> x = torch.rand(30, 16)
        >>> PrincipalComponents.of(x, (1, 4, 4), dim=3).features(x).var(0).argsort(descending=True)
        tensor([0, 1, 2])
    """

    def __init__(self, shape: Shape, dim: int) -> None:
        super().__init__(shape)
        D = math.prod(shape)
        if not 1 <= dim <= D:
            raise InputError(f"expected 1 to {D} principal components; got {dim}; choose another number")
        self.mean: Tensor
        self.axes: Tensor
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("axes", torch.eye(D)[:dim])

    @classmethod
    def of(cls, x: Float[Tensor, "n D"], shape: Shape, dim: int = 64) -> "PrincipalComponents":
        """Those of training images, (n, D) with pixels in [0, 1]; fewer than `dim` where there are fewer.

        Raises:
            InputError: the rows are no such images, or fewer than two.
        """
        check_pixels(x, shape)
        if len(x) < 2:
            raise InputError(f"expected at least 2 images for principal components; got {len(x)}; give more")
        rows = x.double()
        found = cls(shape, min(dim, len(x) - 1, x.shape[1]))
        found.mean = rows.mean(0).float()
        found.axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[: len(found.axes)].float()
        return found

    def _features(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        return (x - self.mean) @ self.axes.T


@final
class Inception(Classifier):
    """Features and class probabilities of the Inception network, as published values of FID have them.

    Args:
        network: from images, uint8 (n, 3, height, width), to a tuple of features (n, 2048) and logits (n, K); of
            `torch_fidelity` the extractor of `2048` and `logits_unbiased`.
        shape: (channels, height, width) of the images; grey ones are given as three equal channels.

    Raises:
        InputError: the images have neither one nor three channels.

    Example:
        >>> class Means(nn.Module):
        ...     def forward(self, x):
        ...         return x.float().mean((2, 3)), torch.zeros(len(x), 5)
        >>> Inception(Means(), (1, 4, 4)).features(torch.ones(2, 16))
        tensor([[255., 255., 255.],
                [255., 255., 255.]])
    """

    def __init__(self, network: nn.Module, shape: Shape) -> None:
        super().__init__(shape)
        if shape[0] not in (1, 3):
            raise InputError(f"expected grey images or three colours for Inception; got {shape[0]} channels")
        self.network = network.eval().requires_grad_(requires_grad=False)

    def _levels(self, x: Float[Tensor, "n D"]) -> UInt8[Tensor, "n 3 h w"]:
        """Bytes, the same for x / 255 and for (x + u) / 256 with u in [0, 1)."""
        levels = (256 * x).floor().clamp(0, 255).to(torch.uint8)
        return levels.unflatten(1, self.shape).expand(-1, 3, -1, -1)

    def _features(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        return self.network(self._levels(x))[0]

    def _probabilities(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        return self.network(self._levels(x))[1].softmax(1)


def load_inception(shape: Shape, weights: str | Path | None = None, *, sha256: str = _INCEPTION_SHA256) -> Inception:
    """The Inception network of torch-fidelity with weights from the user's disk.

    Args:
        shape: (channels, height, width) of the images.
        weights: the file; by default `inception/weights-inception-2015-12-05-6726825d.pth` in the folder of the data.
        sha256: what its checksum begins with; it is read as a pickle, so another file is refused unread.

    Returns:
        The extractor.

    Raises:
        InputError: torch-fidelity or the file is missing, or the file is another.

    References:
        Obukhov et al., torch-fidelity, github.com/toshas/torch-fidelity; Heusel et al. (2017), arXiv 1706.08500.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise InputError(
            f"expected torch-fidelity, for features of Inception; got {type(error).__name__}: {error}; pip install "
            "torch-fidelity, and the torchvision that belongs to your torch"
        ) from error
    path = data_folder() / "inception" / _INCEPTION if weights is None else Path(weights)
    if not path.is_file():
        raise InputError(f"expected the weights of Inception in {path}; got no file; put {_INCEPTION_URL} there")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise InputError(f"expected {path} with a SHA-256 of {sha256}...; got {found}; put {_INCEPTION_URL} there")
    options: dict[str, Any] = {"feature_extractor_weights_path": str(path)}
    return Inception(FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], **options), shape)
