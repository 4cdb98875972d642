"""Bound a module's Lipschitz constant from above, on the whole space and on balls, and show how far that can be off."""

import torch
from torch import nn

from vaerdict.lipschitz import (
    bound_lipschitz,
    bound_local_lipschitz,
    bound_rounding,
    bound_slope_restricted,
    dense_chain,
    estimate_lipschitz,
    trace,
)

torch.manual_seed(0)
decoder = nn.Sequential(
    nn.Linear(8, 64),
    nn.ReLU(),
    nn.Unflatten(1, (16, 2, 2)),
    nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
    nn.ReLU(),
    nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    nn.Sigmoid(),
).requires_grad_(False)
latents = torch.randn(32, 8)

print(bound_lipschitz(decoder, input_shape=(8,)), end="\n\n")
print("maximum norm  ", float(bound_lipschitz(decoder, (8,), norm=float("inf"))))
print("tighter       ", bound_slope_restricted(dense_chain(trace(decoder, (8,)))))
balls = bound_local_lipschitz(decoder, latents[:3], radii=torch.tensor([0.01, 0.1, 1.0]))
print("on three balls", balls[0].tolist())
print("at least      ", float(estimate_lipschitz(decoder, latents)))
print("float32 is off by at most", float(bound_rounding(decoder, input_radius=10.0, input_shape=(8,))))
