"""A trained model with constrained layers, made into an ordinary one."""

from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize


def remove_parametrizations(module: nn.Module) -> None:
    """Replace, in place, every parametrised weight by its value in evaluation: evaluates identically, and fast.

    Covers the parametrisations of torch as well. Those that move when they are read in training, as its
    `spectral_norm` does, are read in evaluation mode; the mode of the module itself stays.

    >>> from vaerdict.lipschitz import lipschitz_linear
    >>> layer = lipschitz_linear(4, 2)
    >>> remove_parametrizations(layer)
    >>> parametrize.is_parametrized(layer)
    False
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            _keep_shown_weights(part)


def _keep_shown_weights(part: nn.Module) -> None:
    """Replace a layer's parametrisations by the values they show.

    Torch's own removal takes the weight from a class that a deep copy shares with its original, which it breaks.
    """
    parametrizations = cast(nn.ModuleDict, part.parametrizations).eval()
    with torch.no_grad():
        shown = {name: getattr(part, name).detach().clone() for name in parametrizations}
    del part.parametrizations
    part.__class__ = type(part).__bases__[0]
    for name, values in shown.items():
        part.register_parameter(name, nn.Parameter(values))
