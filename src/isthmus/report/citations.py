"""The publications of the methods that a model and its report really used, as BibTeX."""

import functools
from importlib import resources

from isthmus.latents import CITES
from isthmus.report.evidence import Evidence
from isthmus.store import Fitted

__all__ = ["bibliography", "citations"]


@functools.cache
def bibliography() -> dict[str, str]:
    """Return the entries of `isthmus/references.bib` by their keys.

    Example:
        >>> bibliography()["sorrenson2024"].splitlines()[1]
        '  title = {Lifting Architectural Constraints of Injective Flows},'
    """
    entries = resources.files("isthmus").joinpath("references.bib").read_text("utf-8").strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def citations(fitted: Fitted, evidence: Evidence, *, baselines: bool) -> list[str]:
    """Return the BibTeX entries of what was used, the method first.

    Args:
        fitted: the model and its record.
        evidence: what the report computed.
        baselines: whether alternatives were fitted.

    Returns:
        Entries of `references.bib`: what objective, flow and latent density name in their `cites`, then the rest.
    """
    recipe, model = fitted.recipe, fitted.model
    part = recipe.flow.latent if fitted.latent.kind == "as trained" else fitted.latent
    tested = evidence.samples is not None or bool(fitted.figures.health)
    mixture = fitted.latent.kind in ("mixture", "mixtures") or len(fitted.figures.density_candidates or ()) > 1
    rest = {
        "kim2020": model.levels.noise is not None,
        "dosovitskiy2020": model.levels.beta is not None,
        "johnson1949": bool(model.columns.heavy_tailed),
        "levina2004": recipe.flow.latent_dim == "auto" and bool(fitted.figures.latent_dim_curve),
        "tipping1999": baselines,
        "szekely2013": tested,
        "lopezpaz2017": evidence.c2st is not None,
        "zuko": True,  # the latent density, whatever its kind
        "scikit-learn": mixture or baselines or evidence.c2st is not None or bool(fitted.figures.health),
        "pytorch": True,
    }
    named = (*recipe.build_objective().cites, *model.flow.cites, *(CITES.get(part.kind, ()) if part else ()))
    keys = dict.fromkeys((*named, *(name for name, used in rest.items() if used)))
    return [bibliography()[name] for name in keys]
