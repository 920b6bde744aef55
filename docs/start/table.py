"""
A table
=======

Measurements of cell nuclei in breast tissue, 30 numbers for each of 569 tumours (Wolberg, Street and Mangasarian 1995;
they come with scikit-learn). 357 of the tumours are benign. The question: knowing benign ones alone, which of the
others look different?

The same is done three times: on the command line, in Python, and as a scikit-learn estimator.
"""

import pandas as pd
from sklearn.datasets import load_breast_cancer

table = load_breast_cancer(as_frame=True)
benign = table.target == 1
known = table.data[benign].iloc[:300]
new = table.data.drop(known.index)
known.to_csv("benign.csv", index=False)
new.to_csv("new.csv", index=False)
new.iloc[:3, :6]

# %%
# On the command line
# -------------------
#
# A model is learned from a table and written to a folder. No option is needed; here the search for the dimension of the
# manifold is skipped and training is cut short, so that this page is built in seconds.

import io
import shlex
from contextlib import redirect_stderr

from isthmus.cli import main


def isthmus(line):
    """Run a command as a shell does, and show what it says."""
    print(f"$ isthmus {line}")
    with redirect_stderr(io.StringIO()) as said:
        main(shlex.split(line))
    print(said.getvalue(), end="")


isthmus("fit benign.csv -o model --latent-dim 6 --set training.max_steps=600")

# %%
# Thirty columns were learned as a surface of six dimensions, with noise off it. ``health`` is the verdict of a dozen
# checks on rows that training did not see; :doc:`report` says what they mean. The folder also holds ``report.html``,
# which draws them.
#
# Any table with the same columns can now be scored. ``log_density`` is in nats and in the units of the table; the
# lower, the less a row is like those that were learned.

isthmus("score model new.csv -o scores.csv")

scores = pd.read_csv("scores.csv")
scores.head(3)

# %%
# Tumours that the model never saw, 57 benign and 212 malignant:

from sklearn.metrics import roc_auc_score

malignant = ~benign[new.index]
auc = roc_auc_score(malignant, -scores.log_density)
print(f"area under the ROC curve, benign against malignant: {auc:.3f}")

# %%

import matplotlib.pyplot as plt

for kind, chosen in (("benign", ~malignant), ("malignant", malignant)):
    plt.hist(scores.log_density[chosen.values].clip(-60), bins=40, range=(-60, 70), alpha=0.7, label=kind)
plt.xlabel("log density (nats; smaller ones at the left end)")
plt.ylabel("tumours")
plt.legend()
plt.show()

# %%
# New rows come from the same density, in the columns of the table, and codes are places on the surface.

isthmus("sample model -n 3 -o made_up.csv")
isthmus("encode model new.csv -o codes.csv")
pd.read_csv("codes.csv").head(3)

# %%
# Text, missing values and conditions
# -----------------------------------
#
# Columns may hold text, booleans, times and gaps. With ``--given`` the other columns are learned *given* one: here the
# measurements given the diagnosis, with some of them missing.

diagnosed = table.data.assign(diagnosis=benign.map({True: "benign", False: "malignant"}))
diagnosed.iloc[::10, 1] = None
diagnosed.to_csv("diagnosed.csv", index=False)

isthmus("fit diagnosed.csv -o given --given diagnosis --latent-dim 6 --set training.max_steps=600 --no-report")
isthmus("sample given -n 200 --given diagnosis=malignant -o made_up_malignant.csv")
isthmus("sample given -n 200 --given diagnosis=benign -o made_up_benign.csv")

# %%
# Medians of the measured and of the made-up tumours:

columns = ["mean radius", "mean texture", "mean concavity", "worst area"]
made_up = pd.concat([pd.read_csv(f"made_up_{kind}.csv") for kind in ("benign", "malignant")])
pd.concat([diagnosed.assign(rows="measured"), made_up.assign(rows="made up")]).groupby(["diagnosis", "rows"])[
    columns
].median()

# %%
# In Python
# ---------
#
# :py:func:`isthmus.fit <isthmus.fitting.fit>` takes a matrix of numbers. What is not left to the defaults stands in a
# :py:class:`~isthmus.recipe.Recipe`; ``isthmus inspect model`` prints all of it.

import torch

from isthmus import Recipe, fit, load, save

recipe = Recipe.parse("{flow: {latent_dim: 6}, training: {max_steps: 300}}")
fitted = fit(known.to_numpy(), recipe=recipe)

x = torch.tensor(new[~malignant].to_numpy())
log_density = fitted.model.log_prob(x)  # nats, one a row
codes = fitted.model.encode(x)
rows = fitted.model.sample(1000)
print(codes.shape, rows.shape, fitted.figures.health.status)

# %%
# The two ways to compute the density should agree: the fast one replaces the decoder by its tangent, the other averages
# over codes and says how certain it is. ``isthmus evaluate`` compares them on a whole table.

value, error = fitted.model.estimate(x[:3])
print("linearised         ", log_density[:3].numpy().round(2))
print("importance sampling", value.numpy().round(2), "+-", error.numpy().round(2))

# %%
# A model is a folder of JSON and safetensors; reading it runs no code of the file.

folder = save(fitted, "from_python")
again = load(folder)
print(torch.equal(again.model.log_prob(x), log_density))

# %%
# With scikit-learn
# -----------------
#
# :py:class:`~isthmus.estimator.InjectiveFlow` is a transformer and a density estimator, so it goes into pipelines and
# grid searches; :py:class:`~isthmus.estimator.InjectiveFlowDetector` calls a share of its training rows outliers.

from isthmus import InjectiveFlow, InjectiveFlowDetector

flow = InjectiveFlow(n_components=6, max_steps=300, random_state=0).fit(known)
print(flow.transform(new).shape, f"{flow.score(new[~malignant]):.1f} nats a benign row")

# %%

detector = InjectiveFlowDetector(n_components=6, max_steps=300, contamination=0.05, random_state=0).fit(known)
called = pd.Series(detector.predict(new) == -1, index=new.index)
pd.crosstab(diagnosed.diagnosis[new.index], called.map({True: "outlier", False: "inlier"}), colnames=["called"])
