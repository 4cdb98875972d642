"""Defences as VAEs: an attack on one goes through it, gradients and all."""

from vaerdict.models.defences.evidence import EvidenceAscent
from vaerdict.models.defences.hamiltonian import HamiltonianDefence
from vaerdict.models.defences.purified import Purified
from vaerdict.models.defences.purifiers import GaussianBlur, Quantise, TotalVariation

__all__ = ["EvidenceAscent", "GaussianBlur", "HamiltonianDefence", "Purified", "Quantise", "TotalVariation"]
