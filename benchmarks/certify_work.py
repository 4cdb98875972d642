"""What the two processes of `certify.py` do: certify, attack, and compare with Barrett's bound."""

from dataclasses import replace
from typing import Any

import torch
from certify_models import BOUNDED, LATENT, STD, Place, Unbounded, budget_of
from certify_speed import CLOSED
from certify_tables import FREE, describe, quartiles

from vaerdict.attacks import MarginSearch, attack_margin
from vaerdict.certify import ModelBounds, certify, margin_barrett
from vaerdict.options import CertifyOptions
from vaerdict.results import Row, frame

SHARES = (0.3, 0.5, 1.0)
"""Of the median distance between reconstructions: `r`."""
MAIN = 0.5


def against_barrett(place: Place, name: str, typical: float, count: int, besides: int) -> dict[str, Any]:
    """Compare the closed forms with Barrett's bound: as published, and with the constants that are proved here."""
    torch.set_num_threads(1)
    vae = place.load(name)
    options = CertifyOptions(methods=CLOSED, local=False)
    known = ModelBounds(vae, place.images[:1], options)
    facts: dict[str, Any] = {}
    for part in SHARES:
        images, r = place.images[: count if part == MAIN else besides], part * typical
        rows = frame(certify(vae, images, r=r, options=options, known=known, r_relative=part))
        margins = rows.pivot(index="sample_id", columns="method", values="margin")
        ours, theirs = margins[["isotropic", "reflection"]].max(axis=1), margins["barrett"]
        published = None
        if name != BOUNDED:  # theirs count no sigmoid, and the product of the layers' budgets on either side
            budget = budget_of(name)
            published = margin_barrett(latent=LATENT, sigma=STD, a=budget, b=budget, r=r)
        facts[f"{part:g}"] = {
            "r": r,
            "n": len(ours),
            "published": published,
            "barrett": quartiles(theirs),
            "ours": quartiles(ours),
            "median_ratio_published": float(ours.median()) / published if published else None,
            "median_ratio_barrett": quartiles((ours / theirs)[theirs > 0])["median"],
            "least_ratio_barrett": float((ours / theirs)[theirs > 0].min()) if (theirs > 0).any() else None,
            "below_barrett": int((ours < theirs).sum()),
        }
    return facts


def barrett_on_plain(place: Place, name: str, r: float, count: int) -> dict[str, Any]:
    """Give the share of test images for which Barrett's bound certifies anything."""
    torch.set_num_threads(1)
    vae, options = place.load(name), CertifyOptions(local=False)
    known = ModelBounds(vae, place.images[:1], options)
    missing = known.sensitivity.missing("decoder", "mean", "std")
    if missing:
        return {"n": count, "positive": 0.0, "reason": missing}
    options = CertifyOptions(methods=("barrett",), local=False)
    rows = certify(vae, place.images[:count], r=r, options=options)
    return {"n": count, "positive": sum((row.margin or 0.0) > 0 for row in rows) / count}


def examine(
    place: Place, name: str, r: float, part: slice, options: CertifyOptions, search: MarginSearch | None
) -> list[Row]:
    """Certify some images by every method and, where there is a search, attack them with and without the range."""
    torch.set_num_threads(1)
    vae, images = place.load(name), place.images[part]
    ask: dict[str, Any] = {"r": r, "r_relative": MAIN, "sample_ids": range(part.start, part.stop)}
    rows = certify(vae, images, options=options, **ask)
    if search is not None:
        rows += attack_margin(vae, images, options=search, **ask)
        wide = Unbounded(vae)
        free = attack_margin(wide, images, options=replace(search, max_radius=wide.widest), **ask)
        # The view is the same model with another range: its margins are the certificates' counterpart.
        rows += [replace(row, model_sha256=rows[0].model_sha256, method=f"{row.method}{FREE}") for row in free]
    return rows


def propagated(place: Place, name: str, r: float, count: int) -> dict[str, Any]:
    """Give what bound propagation adds to the same certificates of a plain VAE, and what it costs."""
    found = {}
    for on in (False, True):
        rows = examine(place, name, r, slice(0, count), CertifyOptions(propagation=on), None)
        found["with" if on else "without"] = describe(frame(rows))
    return found
