"""Attacks on boxes: gradient ascent on each output, inside the ball."""

import torch
from torch import Tensor, nn


def project(delta: Tensor, radius: float, norm: str) -> Tensor:
    if norm == "inf":
        return delta.clamp(-radius, radius)
    sizes = delta.flatten(1).norm(dim=1).clamp(min=1e-300).view(-1, *[1] * (delta.ndim - 1))
    return delta * (radius / sizes).clamp(max=1.0)


def extremes(module: nn.Module, centers: Tensor, radius: float, norm: str, steps: int = 15) -> tuple[Tensor, Tensor]:
    """Give the least and the greatest value found of each output, `[batch, outputs]`, in the module's dtype."""
    outputs = module(centers).flatten(1).shape[1]
    found = []
    for sign in (-1.0, 1.0):
        points = centers.repeat_interleave(outputs, 0)
        delta = project(0.5 * radius * torch.randn_like(points), radius, norm)
        for _ in range(steps):
            delta = delta.detach().requires_grad_()
            values = module(points + delta).flatten(1).unflatten(0, (len(centers), outputs))
            aim = sign * values.diagonal(dim1=1, dim2=2).sum()
            (slope,) = torch.autograd.grad(aim, delta)
            if norm == "inf":
                move = slope.sign()
            else:
                move = slope / slope.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, *[1] * (delta.ndim - 1))
            delta = project(delta + 0.3 * radius * move, radius, norm)
        with torch.no_grad():
            values = module(points + delta).flatten(1).unflatten(0, (len(centers), outputs))
        found.append(values.diagonal(dim1=1, dim2=2).detach().double())
    return found[0], found[1]
