"""Certificates of a case against attacks inside their radii and beyond."""

import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from never_beaten_attacks import Effort, Game, attack, stretch
from never_beaten_cases import CONFIDENCE, Case
from never_beaten_models import build
from torch import Tensor

from vaerdict.certify import ModelBounds, certify
from vaerdict.certify.hierarchical import HierarchicalVAE, certify_hierarchical
from vaerdict.vae import borrowed


class Certificate(NamedTuple):
    """One certified margin of one image."""

    method: str
    strength: str
    image: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one case came to: certificates, those that were beaten, ratios of attacked to certified margins."""

    case: Case
    r: float
    certificates: list[Certificate]
    beaten: list[tuple[Certificate, float]]
    ratios: list[tuple[Certificate, float]]
    steps: int
    seconds: tuple[float, float]


def choose_r(vae: Any, case: Case, images: Tensor) -> float:
    """Choose a distance at which some methods certify: somewhat more than what the unmoved images' draws differ by.

    Where the decoder jumps it is half of the jump.
    """
    if getattr(vae.decoder[0], "out_features", 0) == 1:
        return float(vae.decoder[2].weight.norm())
    generator = torch.Generator().manual_seed(case.seed)
    game, moved = Game(vae, 1.0, case), images
    if case.reconstruction == "mean":
        moved = images + torch.randn(images.shape, generator=generator) * 0.1
    with torch.no_grad():
        typical = game.change(images, moved, game.noise(len(images), 200, generator)).quantile(0.95)
    return max(float(typical), 1e-3) * math.exp(np.random.default_rng([case.seed, 3]).uniform(0.05, 1.5))


def certificates_of(vae: Any, case: Case, images: Tensor, r: float, effort: Effort, shrunk: float) -> list[Certificate]:
    """Certify by every method; with `shrunk` below 1 the constants of decoder and mean are made too small."""
    ask: dict[str, Any] = {"r": r, "p": case.p, "seed": case.seed}
    if isinstance(vae, HierarchicalVAE):
        ask |= {"reconstruction": case.reconstruction, "samples": effort.samples, "confidence": CONFIDENCE}
        rows = certify_hierarchical(vae, images, whitened=vae.whitened(), **ask)  # type: ignore[attr-defined]
    else:
        options = replace(case.options, samples=effort.samples)
        with borrowed(vae):
            model = ModelBounds(vae, images[:1], options)
            if shrunk < 1:
                _shrink(model, shrunk)
            rows = certify(vae, images, options=options, known=model, **ask)
    return [
        Certificate(row.method, row.strength, row.sample_id, row.margin)
        for row in rows
        if row.kind == "certificate" and row.status == "ok" and row.margin and row.margin > 0
    ]


def _shrink(model: ModelBounds, share: float) -> None:
    """Make both constants too small, and those behind and up to the decoder's first layer."""
    true, seam = model.sensitivity, model.seam
    false = {
        name: replace(getattr(true, name), value=share * float(getattr(true, name))) for name in ("decoder", "mean")
    }
    vars(model)["sensitivity"] = replace(true, **false)
    if not isinstance(seam, str):
        vars(model)["seam"] = replace(seam, a=share * seam.a, b=share * seam.b)


def play(case: Case, effort: Effort, shrunk: float = 1.0) -> Outcome:
    """Certify and attack one case."""
    vae = build(case).requires_grad_(False)
    images = torch.rand(effort.images, *vae.input_shape, generator=torch.Generator().manual_seed(case.seed))
    r = choose_r(vae, case, images)
    began = time.perf_counter()
    found = certificates_of(vae, case, images, r, effort, shrunk)
    certified = time.perf_counter()
    best: dict[tuple[int, str], float] = defaultdict(float)
    for one in found:
        best[one.image, one.strength] = max(best[one.image, one.strength], one.margin)
    beaten, ratios = [], []
    if best:
        game, index = Game(vae, r, case), torch.tensor([image for image, _ in best])
        radius = torch.tensor(list(best.values()), dtype=torch.float64)
        result = attack(game, images[index], radius, effort, case.seed)
        sizes = torch.where(result.success, result.size, math.inf)
        longer = stretch(game, images[index], result.delta, 4 * effort.verdicts[0], case.seed + 1)
        least: dict[int, float] = defaultdict(lambda: math.inf)
        for image, size in zip(index.tolist(), torch.minimum(sizes, longer).tolist(), strict=True):
            least[image] = min(least[image], size)
        ratios = [(one, least[one.image] / one.margin) for one in found]
        beaten = [(one, least[one.image]) for one in found if least[one.image] <= one.margin]
    return Outcome(
        case=case, r=r, certificates=found, beaten=beaten, ratios=ratios,
        steps=len(best) * effort.restarts * effort.steps,
        seconds=(certified - began, time.perf_counter() - certified),
    )  # fmt: skip
