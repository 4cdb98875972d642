"""One model and one question about it, drawn from a seed."""

from dataclasses import dataclass

import numpy as np

from vaerdict.options import CertifyOptions, Norm, Reconstruction

FAMILIES = ("linear", "isotropic", "seam", "maxmin", "relu", "tanh", "step", "hierarchical")
SPREADS = ("constant", "shared", "bounded", "log_variance")
CONFIDENCE = 1 - 1e-9


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and one question about it; everything else follows from the seed."""

    seed: int
    family: str = "relu"
    spread: str = "constant"
    norm: Norm = "2"
    reconstruction: Reconstruction = "sampled"
    p: float = 0.5
    local: bool = True
    propagation: bool = False

    @property
    def options(self) -> CertifyOptions:
        """Give the options of the certificates, but for the number of draws."""
        return CertifyOptions(
            norm=self.norm,
            reconstruction=self.reconstruction,
            local=self.local,
            propagation=self.propagation,
            confidence=CONFIDENCE,
        )


def draw_case(seed: int) -> Case:
    """Draw a family, a spread and a question."""
    rng = np.random.default_rng([seed, 1])
    family = str(rng.choice(FAMILIES, p=[0.13, 0.18, 0.1, 0.13, 0.13, 0.1, 0.13, 0.1]))
    kinds = (
        ("sampled", "anchored") if family in ("seam", "hierarchical") else ("sampled", "sampled", "anchored", "mean")
    )
    norms = ("2",) if family == "hierarchical" else ("2", "2", "inf")
    spread = str(rng.choice(SPREADS if family != "seam" else SPREADS[:1]))  # that certificate is of constant ones
    return Case(
        seed=seed,
        family=family,
        spread=spread,
        norm=str(rng.choice(norms)),  # type: ignore[arg-type]
        reconstruction=str(rng.choice(kinds)),  # type: ignore[arg-type]
        p=float(rng.choice([0.5, 0.5, 0.7, 0.9])),
        local=bool(rng.random() < 0.6) or spread == "log_variance",  # which has no other bound of the spread
        propagation=bool(rng.random() < 0.04),
    )
