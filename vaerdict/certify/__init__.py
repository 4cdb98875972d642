"""From sensitivity to probability to margin: certificates of a VAE's robustness, and designs that promise one."""

from vaerdict.certify.closed_form import margin_barrett, margin_isotropic
from vaerdict.certify.design import Design, design_frontier
from vaerdict.certify.run import certify, choose_methods
from vaerdict.certify.sensitivity import Sensitivity, measure_sensitivity

__all__ = [
    "Design",
    "Sensitivity",
    "certify",
    "choose_methods",
    "design_frontier",
    "margin_barrett",
    "margin_isotropic",
    "measure_sensitivity",
]
