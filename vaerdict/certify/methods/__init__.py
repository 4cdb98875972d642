"""The certificates and estimates: each says when it applies, and turns a batch of posteriors into margins."""

from vaerdict.certify.methods.batch import Batch, Margins, Method
from vaerdict.certify.methods.coupling import COUPLING
from vaerdict.certify.methods.first_order import FIRST_ORDER
from vaerdict.certify.methods.lipschitz import BARRETT, COORDINATE, ISOTROPIC, REFLECTION
from vaerdict.certify.methods.mean import DETERMINISTIC
from vaerdict.certify.methods.seam import SEAM
from vaerdict.certify.methods.shift import SHIFT, SHIFT_MOVING
from vaerdict.certify.methods.support import SUPPORT

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
    "first_order": FIRST_ORDER,
}

__all__ = ["METHODS", "Batch", "Margins", "Method"]
