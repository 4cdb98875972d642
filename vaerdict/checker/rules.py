"""What a row of each method may say of itself: its strength, its reconstruction, its norm, its confidence."""

import math
from dataclasses import dataclass

from vaerdict.checker.claims import Claim

_RANDOM = ("sampled", "anchored")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is allowed; `statistical` methods have a confidence, the others have none."""

    strengths: tuple[str, ...] = ("numerical",)
    reconstructions: tuple[str, ...] = _RANDOM
    norms: tuple[str, ...] = ("2", "inf")

    @property
    def statistical(self) -> bool:
        """Whether the certificate holds with a confidence."""
        return "statistical" in self.strengths


_PROVED, _STATISTICAL = ("proved", "numerical"), ("statistical",)
RULES = {
    "barrett": Rule(reconstructions=("sampled",), norms=("2",)),
    "isotropic": Rule(strengths=_PROVED),
    "reflection": Rule(strengths=_PROVED),
    "seam": Rule(),
    "coordinate": Rule(),
    "deterministic": Rule(strengths=_PROVED, reconstructions=("mean",)),
    "support": Rule(reconstructions=(*_RANDOM, "mean")),
    "shift": Rule(strengths=_STATISTICAL),
    "shift_moving": Rule(strengths=_STATISTICAL),
    "coupling": Rule(strengths=_STATISTICAL),
    "center": Rule(strengths=_STATISTICAL, reconstructions=("smoothed",)),
    "latent_center": Rule(strengths=_STATISTICAL, reconstructions=("smoothed",)),
    "hierarchical": Rule(strengths=_STATISTICAL, norms=("2",)),
}


def faults(claim: Claim) -> list[str]:
    """Say what a certificate says of itself that its method does not allow.

    >>> faults.__name__
    'faults'
    """
    rule, found = RULES[claim.method], []
    for name, value, allowed in (
        ("strength", claim.strength, rule.strengths),
        ("reconstruction", claim.reconstruction, rule.reconstructions),
        ("norm", claim.norm, rule.norms),
        ("kind", claim.kind, ("certificate",)),
    ):
        if value not in allowed:
            found.append(f"expected `{name}` in {', '.join(allowed)} with {claim.method}, got {value!r}")
    if claim.noise_std is not None and claim.reconstruction != "smoothed":
        found.append(f"expected no `noise_std` but with smoothed reconstructions, got {claim.noise_std!r}")
    if claim.margin is None or not _is_number(claim.margin) or claim.margin < 0:
        found.append(f"expected a finite margin >= 0, got {claim.margin!r}")
    if not _is_number(claim.r) or claim.r <= 0:
        found.append(f"expected a finite `r` > 0, got {claim.r!r}")
    if not _is_number(claim.p) or not 0.5 <= claim.p < 1:
        found.append(f"expected `p` in [0.5, 1), got {claim.p!r}")
    found += _faults_of_confidence(claim, rule)
    return found if claim.margin == 0 else found + _faults_of_sources(claim)  # a margin of 0 rests on nothing


def _faults_of_confidence(claim: Claim, rule: Rule) -> list[str]:
    value = claim.confidence
    if not rule.statistical:
        return [] if value is None else [f"expected no confidence with {claim.method}, got {value!r}"]
    sure = _is_number(value) and value is not None and 0.5 < value < 1
    return [] if sure else [f"expected a confidence in (0.5, 1), got {value!r}"]


def _faults_of_sources(claim: Claim) -> list[str]:
    """Only a shift, and the slope of a decoder of means, may rest on something else than the layers.

    Boxes are never proved.
    """
    if not isinstance(claim.constants, dict):
        return [f"expected constants by name, got {claim.constants!r:.40}"]
    known: dict[str, tuple[str, ...]] = {"shift_by": ("global", "local", "box")}
    if claim.method == "deterministic":
        known["a_by"] = ("global", "local")
    found = [
        f"expected no `{name}`: this constant rests on the layers"
        for name in claim.constants
        if name.endswith("_by") and name not in known
    ]
    for name, allowed in known.items():
        if (source := claim.constants.get(name, "global")) not in allowed:
            found.append(f"expected `{name}` in {', '.join(allowed)}, got {source!r}")
    source = claim.constants.get("shift_by", "global")
    if source == "box" and claim.strength == "proved":
        found.append("expected `numerical` where the shift is bounded by a box, got `proved`")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
