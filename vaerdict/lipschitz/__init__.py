"""Constrained layers and Lipschitz constants that are proved from above."""

from vaerdict.lipschitz.bounds import Factor, LipschitzBound, NoSoundBound, bound_lipschitz
from vaerdict.lipschitz.layers import MaxMin, Scale, Select, freeze, lipschitz_linear
from vaerdict.lipschitz.spectral import bound_spectral_norm, round_up

__all__ = [
    "Factor",
    "LipschitzBound",
    "MaxMin",
    "NoSoundBound",
    "Scale",
    "Select",
    "bound_lipschitz",
    "bound_spectral_norm",
    "freeze",
    "lipschitz_linear",
    "round_up",
]
