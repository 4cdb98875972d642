"""The certificates and estimates: each says when it applies, and turns a batch of posteriors into margins."""

from vaerdict.certify.methods.batch import Batch, Margins, Method
from vaerdict.certify.methods.center import CENTER, LATENT_CENTER
from vaerdict.certify.methods.coupling import COUPLING
from vaerdict.certify.methods.first_order import FIRST_ORDER
from vaerdict.certify.methods.lipschitz import BARRETT, COORDINATE, ISOTROPIC, REFLECTION
from vaerdict.certify.methods.mean import DETERMINISTIC
from vaerdict.certify.methods.seam import SEAM
from vaerdict.certify.methods.shift import SHIFT, SHIFT_MOVING
from vaerdict.certify.methods.support import SUPPORT
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.smoothed import SHARE, confidence_of_each
from vaerdict.certify.statistics import require_samples

METHODS: dict[str, Method] = {
    "barrett": BARRETT,
    "isotropic": ISOTROPIC,
    "reflection": REFLECTION,
    "seam": SEAM,
    "coordinate": COORDINATE,
    "deterministic": DETERMINISTIC,
    "support": SUPPORT,
    "shift": SHIFT,
    "shift_moving": SHIFT_MOVING,
    "coupling": COUPLING,
    "center": CENTER,
    "latent_center": LATENT_CENTER,
    "first_order": FIRST_ORDER,
}

SMOOTHED = ("center", "latent_center")
"""The methods that certify smoothed reconstructions; all others certify those of the model itself."""


def missing(name: str, model: ModelBounds) -> str | None:
    """Give the reason why a method does not apply to a model, or None where it does."""
    if model.options.reconstruction == "smoothed" and name not in SMOOTHED:
        return "certifies reconstructions of the model itself, not smoothed ones"
    return METHODS[name].reason(model)


def missing_draws(name: str, samples: int, p: float, confidence: float) -> str | None:
    """Give the reason why so few draws can show nothing by a method at the level and confidence; None where they can.

    >>> missing_draws("shift", 9, 0.5, 0.999)
    'expected `samples` >= 10 to show a probability above 0.5 with confidence 0.999, got 9'
    """
    if METHODS[name].statistics is None:
        return None
    level, each = (SHARE, confidence_of_each(confidence)) if name in SMOOTHED else (p, confidence)
    try:
        require_samples("samples", samples, level, each)
    except ValueError as few:
        return str(few)
    return None


__all__ = ["METHODS", "SMOOTHED", "Batch", "Margins", "Method", "missing", "missing_draws"]
