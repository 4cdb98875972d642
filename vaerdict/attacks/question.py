"""What an attack is asked: which change, how large, how often, by which inputs."""

import math
from dataclasses import dataclass
from typing import get_args

from vaerdict.options import AttackNorm, Reconstruction, require


@dataclass(frozen=True, kw_only=True)
class Question:
    """Is `P(|Delta| <= r) > p` for every allowed input (THEORY 1)?

    Args:
        r: L2 distance between reconstructions that counts as damage, in pixel units.
        p: level in [1/2, 1).
        norm: of the perturbation: "2", "inf", "1", or a count of pixels ("0") or of values ("0-values").
        reconstruction: which change `Delta` is meant, "sampled", "anchored" or "mean".

    >>> Question(r=1.0, norm="inf").p
    0.5
    """

    r: float
    p: float = 0.5
    norm: AttackNorm = "2"
    reconstruction: Reconstruction = "sampled"

    def __post_init__(self) -> None:
        require(math.isfinite(self.r) and self.r > 0, "a finite `r` > 0", self.r)
        require(0.5 <= self.p < 1, "`p` in [1/2, 1)", self.p)
        require(self.norm in get_args(AttackNorm), f"`norm` in {get_args(AttackNorm)}", repr(self.norm))
        known = get_args(Reconstruction)
        require(self.reconstruction in known, f"`reconstruction` in {known}", repr(self.reconstruction))

    @property
    def draws(self) -> int:
        """Independent latent draws that one value of `Delta` needs: `z'` and `z`, `z'` alone, or none."""
        return {"sampled": 2, "anchored": 1, "mean": 0}[self.reconstruction]
