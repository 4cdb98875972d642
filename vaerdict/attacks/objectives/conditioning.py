"""How ill-conditioned each layer is, and the weights that follow."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vaerdict.options import require


def conditioning_weights(layers: Mapping[str, nn.Module]) -> dict[str, float]:
    """Give each layer the sum of the others' condition numbers, and scale these weights to sum to 1 (GRILL, 2025).

    >>> layers = {"flat": nn.Flatten(), "dense": nn.Linear(2, 2)}
    >>> layers["dense"].weight.data = torch.diag(torch.tensor([3.0, 1.0]))
    >>> conditioning_weights(layers)
    {'flat': 0.75, 'dense': 0.25}
    """
    numbers = {name: condition_number(layer) for name, layer in layers.items()}
    others = {name: sum(numbers.values()) - number for name, number in numbers.items()}
    total = sum(others.values())
    # A single layer has no others.
    return {name: other / total if total > 0 else 1 / len(others) for name, other in others.items()}


def condition_number(layer: nn.Module) -> float:
    """Give the ratio of the extreme singular values of a layer's weight, its first axis against the rest; 1 without.

    A weight that lacks rank counts as one of the largest ratio that float64 can tell.

    Raises:
        ValueError: the weight is not finite.

    >>> condition_number(nn.ReLU())
    1.0
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.numel():
        return 1.0
    matrix = weight.detach().double().cpu().flatten(1)
    require(bool(matrix.isfinite().all()), "finite weights in every layer", f"NaN or infinity in {layer}")
    values = torch.linalg.svdvals(matrix)
    greatest, least = float(values[0]), float(values[-1])
    return greatest / max(least, greatest * 2.0**-52) if greatest > 0 else 1.0
