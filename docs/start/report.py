"""
Reading a report
================

Every fit ends with checks on rows that training did not use, and a verdict: ``ok``, ``warn`` or ``fail``.
``isthmus fit`` prints it and writes ``report.html``, which begins with it and draws what it rests on;
``isthmus inspect`` shows it again; in Python it is ``fitted.figures.health``. Two reports to look at:
`handwritten digits <../../report.html>`__, the model of :doc:`images`, drawn as pictures; and `POWER
<../../power.html>`__, 1.8 million rows of the electric power of a household, with no option set, judged on rows of the
published test split (``docs/power.py`` has the commands). Causes stand before their symptoms: start with the first that
fails.

.. list-table::
   :header-rows: 1
   :widths: 18 41 41

   * - check
     - what is wrong if it fails
     - what to do
   * - ``training``
     - Steps were left out, their gradient not being finite.
     - Lower the learning rate; look for extreme values in the table.
   * - ``latent_dim``
     - The data have more dimensions, beyond the noise, than the manifold.
     - Raise ``latent_dim`` to what the sentence names, or leave it to the search.
   * - ``curvature``
     - The manifold turns so sharply that points within the noise have no clear place on it; with the surrogate
       ``encoder_on_manifold`` training pays for that without bound (:ref:`why <the-pathology>`).
     - Raise beta, lower ``latent_dim``, or take another surrogate.
   * - ``beta``
     - The squared error weighs less than a tenth of 1/(2 sigma²), sigma² being the noise floor (below half of it is a
       warning): training gains by reconstructing worse than the noise (:ref:`why <the-weight-of-reconstruction>`).
     - Raise beta to what the sentence names, or leave it at ``auto``.
   * - ``reconstruction``
     - Held-out residuals are twice the noise floor or more, that is, of what flat pieces of the same dimension leave.
     - Train longer, with wider networks, or with a larger ``latent_dim``; if a cause above fails, that first.
   * - ``pseudo_inverse``
     - Encoder and decoder do not belong together: the encoder's Jacobian is far from the decoder's pseudo-inverse, on
       which the surrogate rests.
     - Raise beta or train longer.
   * - ``gradient``
     - The surrogate's gradient points elsewhere than the exact one.
     - Raise beta, or take ``objective: {kind: exact}`` where d is small.
   * - ``spectrum``
     - Latent directions are below the noise: they carry nothing. Never fails, only warns.
     - Lower ``latent_dim``.
   * - ``codes``
     - Codes do not follow the latent density, so samples come from the wrong places.
     - Refit the latent density: ``refit: {latent: auto}``.
   * - ``samples``
     - New rows differ from held-out ones, or lie much farther from the training rows than those do.
     - Look at ``reconstruction`` and ``latent_dim`` before using them.
   * - ``generalisation``
     - Rows that were trained on have a higher density, or far smaller residuals, than others: overfitting.
     - More rows, narrower networks or more weight decay.
   * - ``density``
     - The fast evaluation of the density is off the sampled one: the decoder bends within the noise.
     - Score with ``--density ambient``.
   * - ``finite``
     - Some rows have no finite reconstruction.
     - Lower the learning rate.
   * - ``rows``
     - Too few rows were held out to say anything.
     - Give at least 20, better 50 held-out rows.

A report on a table adds three: ``c2st``, whether a classifier tells samples from rows; ``simpler``, whether a mixture
or a linear model describes the rows better; ``shift``, whether these rows are as likely as those of the fit.

The limits, and the fits that they were measured on, are constants of :py:mod:`isthmus.diagnostics`:
"""

import pandas as pd

from isthmus.diagnostics import LIMITS

pd.DataFrame(LIMITS, index=["warn", "fail"]).T

# %%
# A fit that went wrong
# ---------------------
#
# The benign tumours of :doc:`table` again, on a surface of three dimensions.

from sklearn.datasets import load_breast_cancer

from isthmus import Recipe, fit

bunch = load_breast_cancer()
X = bunch.data[bunch.target == 1]


def verdicts(settings):
    """The verdicts of a fit that are not ok."""
    fitted = fit(X, recipe=Recipe.parse(settings))
    for verdict in fitted.figures.health.verdicts:
        if verdict.status != "ok":
            print(f"{verdict.status}: {verdict.name}: {verdict.sentence}")
    found = fitted.figures.validation
    print(f"held-out squared error {found['reconstruction_mse']:.1f}, status {fitted.figures.health.status}")


verdicts("{flow: {latent_dim: 3}, training: {max_steps: 300}}")

# %%
# The verdict names the cause and the remedy. As advised:

verdicts("{flow: {latent_dim: 5}, training: {max_steps: 300}}")

# %%
# What a verdict is good for
# --------------------------
#
# A report answers three questions apart, since a model may serve one and not the other:
#
# * *scoring rows* rests on reconstruction, beta, the gradient, the codes and the agreement of both densities;
# * *drawing new rows* on reconstruction, the codes and the samples;
# * *codes and reconstructions* on the pair of networks alone.
#
# Where reconstruction fails, ``isthmus score`` and ``isthmus evaluate`` say so beside every likelihood, and with
# ``--strict`` they end with exit code 1, for pipelines. ``--strict`` also refuses a table with a row that does not suit
# the model, which ``isthmus score`` and ``isthmus encode`` otherwise give a sentence in a column ``note`` in place of
# numbers, and end with exit code 3. No verdict says that a model is right: each was able to find
# something wrong and did not.
