"""Nets that are hard to bound, and the largest changes that can be found in balls around their inputs."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaerdict.lipschitz.layers import GroupSort, MaxMin

SHORTEST = 0.02
"""Shorter steps, as shares of the radius, show little but rounding."""

ROUNDING = 1e-6

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "shallow": nn.LeakyReLU(0.1),
    "steep": nn.LeakyReLU(2.0),
    "folding": nn.LeakyReLU(-0.5),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "pairs": MaxMin(),
    "sorted": GroupSort(2),
}


def dense_net(sizes: Sequence[int], activation: str, scales: Sequence[float] = ()) -> nn.Sequential:
    """Make layers whose weights have the spread that keeps values near the scales' product."""
    layers: list[nn.Module] = []
    total = 1.0
    for (inputs, outputs), scale in itertools.zip_longest(itertools.pairwise(sizes), scales, fillvalue=1.0):
        layer = nn.Linear(inputs, outputs).double()
        total *= scale
        layer.weight.data.normal_(std=scale * (2.0 / inputs) ** 0.5)
        layer.bias.data.normal_(std=0.3 * total)
        layers += [layer, ACTIVATIONS[activation]]
    return nn.Sequential(*layers[:-1])


def put_near_kinks(net: nn.Sequential, center: Tensor, distance: float) -> None:
    """Choose the biases so that every dense layer's outputs at an input are near 0 on either side, or at it."""
    values = center
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                size = float((values @ layer.weight.T).abs().max()) or 1.0
                wanted = distance * size * torch.randint(-2, 3, layer.bias.shape).double()
                layer.bias.data = wanted - (values @ layer.weight.T)[0]
            values = layer(values)


def changes_from(net: nn.Module, center: Tensor, steps: Tensor) -> Tensor:
    """Give `(f(x + d) - f(x)) / |d|`, `[points, outputs]`."""
    moved = (net(center + steps) - net(center)).flatten(1)
    return moved / steps.flatten(1).norm(dim=1, keepdim=True)


def used_up(net: nn.Module, center: Tensor, radius: float, held: Tensor, rounds: int = 20) -> float:
    """Give the largest `v^T V^-1 v` found: random points, the boundary, and gradient ascent from both.

    Rounding `e` is kept out: `(v + e)(v + e)^T <= (1 + t) v v^T + (1 + 1 / t) e e^T`, and 1 + 2 t is no excess.
    """
    unseen = 1e-11 * float(held.trace()) + (noise(net, center, radius) / (SHORTEST * radius)) ** 2 / ROUNDING
    root = torch.linalg.cholesky(held + unseen * torch.eye(len(held)).to(held))
    lengths = radius * torch.cat([torch.ones(16), torch.linspace(SHORTEST, 1.0, 16)]).double()
    steps = _lengthened(torch.randn(32, *center.shape[1:], dtype=torch.float64), lengths).requires_grad_()
    best = 0.0
    for step in range(rounds):
        inside = torch.linalg.solve_triangular(root, changes_from(net, center, steps).T, upper=False).square().sum(0)
        best = max(best, float(inside.detach().max()))
        (slope,) = torch.autograd.grad(inside.sum(), steps)
        moved = steps.detach() + _lengthened(slope, 0.5 * radius * (1.0 - step / rounds) * torch.ones(32).double())
        size = moved.flatten(1).norm(dim=1)
        moved = torch.where((size > SHORTEST * radius)[(...,) + (None,) * (steps.ndim - 1)], moved, steps.detach())
        steps = _lengthened(moved, moved.flatten(1).norm(dim=1).clamp(max=radius)).requires_grad_()
    return best


def noise(net: nn.Module, center: Tensor, radius: float) -> float:
    """Give roughly how far float64 outputs may be from exact ones, with slopes of at most 2."""
    size, off = float(center.norm()) + radius, 0.0
    for layer in net.modules():
        gain, bias = 2.0, 0.0
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight, shift = layer.weight.detach(), layer.bias
            gain = float(weight.norm()) * weight[0, 0].numel() ** 0.5
            bias = 0.0 if shift is None else float(shift.detach().norm())
        elif isinstance(layer, nn.Sigmoid):
            bias = 0.5
        elif isinstance(layer, nn.Sequential | nn.Flatten):
            continue
        size = gain * size + bias
        off = gain * off + 2.0**-51 * size
    return off


def _lengthened(steps: Tensor, lengths: Tensor) -> Tensor:
    now = steps.flatten(1).norm(dim=1).clamp(min=1e-300)
    return steps * ((1 - 1e-15) * lengths / now).reshape(-1, *[1] * (steps.ndim - 1))
