"""Adapters: VAEs of other libraries, and models that return tuples or mappings, in the house's contract."""

from vaerdict.models.adapters.diffusers import adapt_diffusers, clamped_share
from vaerdict.models.adapters.generic import adapt
from vaerdict.models.adapters.pythae import adapt_pythae

__all__ = ["adapt", "adapt_diffusers", "adapt_pythae", "clamped_share"]
