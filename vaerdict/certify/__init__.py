"""From sensitivity to probability to margin: certificates of a VAE's robustness, and designs that promise one."""

from vaerdict.certify.closed_form import margin_barrett, margin_isotropic
from vaerdict.certify.design import Design, design_frontier
from vaerdict.certify.export import export_certificates, export_model
from vaerdict.certify.hierarchical import certify_hierarchical
from vaerdict.certify.labels import LabelOptions, LabelResult, certified_accuracy, certify_label
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.run import certify, choose_methods
from vaerdict.certify.sensitivity import Sensitivity, measure_sensitivity
from vaerdict.certify.smoothed import Center, estimate_centers

__all__ = [
    "Center",
    "Design",
    "LabelOptions",
    "LabelResult",
    "ModelBounds",
    "Sensitivity",
    "certified_accuracy",
    "certify",
    "certify_hierarchical",
    "certify_label",
    "choose_methods",
    "design_frontier",
    "estimate_centers",
    "export_certificates",
    "export_model",
    "margin_barrett",
    "margin_isotropic",
    "measure_sensitivity",
]
