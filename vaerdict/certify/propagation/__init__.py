"""Boxes that contain what a module gives on a ball, by auto_LiRPA: an optional backend that nobody here controls.

Its results are `numerical`, never `proved`. Modules are rewritten into few operations before they reach it, canaries
are run before it is used, and every box is probed.
"""

from vaerdict.certify.propagation.adapter import BoundedMap
from vaerdict.certify.propagation.backend import METHODS
from vaerdict.certify.propagation.canaries import unavailable
from vaerdict.certify.propagation.cost import Cost, estimate_cost
from vaerdict.certify.propagation.decoder import bound_reconstruction_change
from vaerdict.certify.propagation.reach import box_shifts

__all__ = ["METHODS", "BoundedMap", "Cost", "bound_reconstruction_change", "box_shifts", "estimate_cost", "unavailable"]
