"""The publications of the methods that a model and its report really used, as BibTeX."""

from isthmus.report.evidence import Evidence
from isthmus.store import Fitted

__all__ = ["BIBTEX", "citations"]

BIBTEX: dict[str, str] = {
    "sorrenson2024": """@inproceedings{sorrenson2024,
  title = {Lifting Architectural Constraints of Injective Flows},
  author = {Sorrenson, Peter and Draxler, Felix and Rousselot, Armand and Hummerich, Sander and Zimmermann, Lea and
            K{\\"o}the, Ullrich},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  note = {arXiv:2306.01843},
}""",
    "rafae2026": """@misc{rafae2026,
  title = {Normalizing AutoEncoder},
  author = {Rafae and Landwehr},
  year = {2026},
  note = {arXiv:2608.12084},
}""",
    "caterini2021": """@inproceedings{caterini2021,
  title = {Rectangular Flows for Manifold Learning},
  author = {Caterini, Anthony L. and Loaiza-Ganem, Gabriel and Pleiss, Geoff and Cunningham, John P.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  note = {arXiv:2106.01413},
}""",
    "dinh2017": """@inproceedings{dinh2017,
  title = {Density Estimation Using {Real NVP}},
  author = {Dinh, Laurent and Sohl-Dickstein, Jascha and Bengio, Samy},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
  note = {arXiv:1605.08803},
}""",
    "durkan2019": """@inproceedings{durkan2019,
  title = {Neural Spline Flows},
  author = {Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
  note = {arXiv:1906.04032},
}""",
    "levina2004": """@inproceedings{levina2004,
  title = {Maximum Likelihood Estimation of Intrinsic Dimension},
  author = {Levina, Elizaveta and Bickel, Peter J.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2004},
}""",
    "tipping1999": """@article{tipping1999,
  title = {Probabilistic Principal Component Analysis},
  author = {Tipping, Michael E. and Bishop, Christopher M.},
  journal = {Journal of the Royal Statistical Society, Series B},
  volume = {61}, number = {3}, pages = {611--622}, year = {1999},
}""",
    "szekely2013": """@article{szekely2013,
  title = {Energy Statistics: A Class of Statistics Based on Distances},
  author = {Sz{\\'e}kely, G{\\'a}bor J. and Rizzo, Maria L.},
  journal = {Journal of Statistical Planning and Inference},
  volume = {143}, number = {8}, pages = {1249--1272}, year = {2013},
}""",
    "lopezpaz2017": """@inproceedings{lopezpaz2017,
  title = {Revisiting Classifier Two-Sample Tests},
  author = {Lopez-Paz, David and Oquab, Maxime},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
  note = {arXiv:1610.06545},
}""",
    "zuko": """@software{zuko,
  title = {Zuko: Normalizing flows in PyTorch},
  author = {Rozet, Fran{\\c{c}}ois and others},
  year = {2022},
  doi = {10.5281/zenodo.7625672},
}""",
    "scikit-learn": """@article{scikit-learn,
  title = {Scikit-learn: Machine Learning in {P}ython},
  author = {Pedregosa, Fabian and others},
  journal = {Journal of Machine Learning Research},
  volume = {12}, pages = {2825--2830}, year = {2011},
}""",
    "pytorch": """@inproceedings{pytorch,
  title = {{PyTorch}: An Imperative Style, High-Performance Deep Learning Library},
  author = {Paszke, Adam and others},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
}""",
}


def citations(fitted: Fitted, evidence: Evidence, *, baselines: bool) -> list[str]:
    """BibTeX entries of what was used, the method first.

    Args:
        fitted: the model and its record.
        evidence: what the report computed.
        baselines: whether alternatives were fitted.

    Returns:
        Entries of `BIBTEX`.
    """
    recipe, latent = fitted.recipe, fitted.recipe.flow.latent.kind
    trained_latent = fitted.latent.kind == "as trained"
    surrogate = recipe.objective.options.get("surrogate", "encoder")
    freeform = recipe.objective.kind == "freeform"
    rectangular = recipe.flow.kind == "rectangular" and not fitted.custom
    mixture = fitted.latent.kind == "mixture" or len(fitted.metrics.get("density_candidates", [])) > 1
    used = {
        "sorrenson2024": freeform or not (rectangular or recipe.objective.kind == "rectangular"),
        "rafae2026": freeform and surrogate == "conditional",
        "caterini2021": rectangular or recipe.objective.kind == "rectangular",
        "dinh2017": rectangular,
        "durkan2019": not rectangular and latent == "flow" and trained_latent,
        "levina2004": recipe.flow.latent_dim == "auto",
        "tipping1999": baselines,
        "szekely2013": evidence.samples is not None or bool(fitted.metrics.get("health")),
        "lopezpaz2017": evidence.c2st is not None,
        "zuko": True,  # the latent density, whatever its kind
        "scikit-learn": mixture or baselines or evidence.c2st is not None or bool(fitted.metrics.get("health")),
        "pytorch": True,
    }
    return [BIBTEX[name] for name, yes in used.items() if yes]
