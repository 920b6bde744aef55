"""
Images
======

An image is a row of pixels: 1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn, as 64 columns each.
Networks that know of rows and columns of pixels learn them better; any pair of torch modules may take their place, see
:doc:`modules`.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

digits = load_digits()
X, labels = digits.data, digits.target
train, test = X[:1500], X[1500:]
print(train.shape, test.shape)

# %%
# A recipe chooses the pair of convolutional networks by name, with its options beside it; and it says that a row is an
# image of one channel, eight by eight. So all pixels get one mean and one scale, those that never vary are kept, and
# the networks learn their shape. On the command line a folder of images, or an ``.npz`` file of them, says so itself:
# ``isthmus fit images/ -o model``.

from isthmus import Recipe, fit, save

recipe = Recipe.parse("""
flow:
  latent_dim: 10
  network: {kind: convolutional, channels: 16, stages: 2, blocks: 0}
training: {max_steps: 400}
columns: {image: [1, 8, 8]}
""")
fitted = fit(train, recipe=recipe)
for verdict in fitted.figures.health.verdicts:
    print(f"{verdict.status:>4}  {verdict.name}: {verdict.sentence}")

# %%
# Those are checks on digits that training did not see; :doc:`report` explains them. Now the test digits, what the model
# makes of them, and new ones: on the manifold, and with the noise off it that the density has.

import torch

x = torch.tensor(test)
lines = {
    "test": x[:10],
    "reconstructed": fitted.model.reconstruct(x[:10]),
    "new": fitted.model.sample(10, noise=False),
    "new, with noise": fitted.model.sample(10),
}
figure, axes = plt.subplots(4, 10, figsize=(8, 3.6), layout="constrained")
for line, (name, images) in zip(axes, lines.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, image in zip(line, images, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# The codes were learned without the labels, yet they know something of them: a nearest-neighbour classifier on ten
# numbers, against one on 64.

from sklearn.neighbors import KNeighborsClassifier

codes = fitted.model.encode(torch.tensor(train)), fitted.model.encode(x)
for name, (a, b) in {"codes": codes, "pixels": (train, test)}.items():
    right = KNeighborsClassifier(5).fit(a, labels[:1500]).score(b, labels[1500:])
    print(f"{name:>6}: {right:.1%} of the test digits are recognised")

# %%
# A walk on the manifold from one digit to another is a straight line between their codes.

start, end = fitted.model.encode(x[[1]]), fitted.model.encode(x[[7]])
walk = fitted.model.decode(torch.lerp(start, end, torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]))
figure, axes = plt.subplots(1, 10, figsize=(8, 1), layout="constrained")
for ax, image in zip(axes, walk, strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    ax.axis("off")
plt.show()

# %%
# Digits that the density finds unusual, and usual ones:

log_density = fitted.model.log_prob(x)
order = log_density.argsort()
figure, axes = plt.subplots(2, 10, figsize=(8, 2.2), layout="constrained")
for ax, place in zip(axes.flat, [*order[:10], *order[-10:]], strict=True):
    ax.imshow(x[place].reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    ax.set_title(f"{log_density[place]:.0f}", fontsize=8)
    ax.axis("off")
plt.show()

# %%
# The report
# ----------
#
# One page that holds all of this and more: ``isthmus report MODEL TABLE``. `The report on this model
# <../../report.html>`__ was written by these lines. Rows are drawn as images since the networks know their size; for
# other networks say ``--image 8x8``.

from pathlib import Path

import pandas as pd

from isthmus import report

save(fitted, "digits", force=True)
report.write(fitted, Path("report.html"), pd.DataFrame(train), folder=Path("digits"))

# %%
# To move through the latent space by hand, with every digit beside its reconstruction and its neighbours, open the
# local page of ``isthmus explore digits TABLE`` (it needs ``pip install 'isthmus[explore]'``).
