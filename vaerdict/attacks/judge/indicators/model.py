"""Signs that the model hides what it does from a search with gradients."""

import torch
from jaxtyping import Bool
from torch import Tensor

from vaerdict.attacks.judge.indicators.probe import Probe

LOOKS = 2
"""Random changes of the attacked image to which a standard deviation must react. Our own."""
CLAMPED = 0.5
"""Share of the standard deviations that do not, above which the posterior is flagged. Our own."""
ENDS = 1e-6
"""A pixel this close to an end of the range, as a share of it, is saturated: the slope of a sigmoid is less there."""
SATURATED = 0.9
"""Share of such pixels above which a reconstruction is flagged: a digit on black has two thirds. Our own."""


@torch.no_grad()
def clamped_log_variance(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where most standard deviations, although computed from the image, do not react to small changes of it at all.

    Not a digit of them: a clamp gives the same number on its far side, and its gradient is zero there. A standard
    deviation that autograd does not trace to the image is constant by design.
    """
    low, high = probe.ball.box
    with torch.enable_grad():
        std = probe.batch.vae.encode(probe.adversarial.requires_grad_()).std
    if not std.requires_grad:
        return torch.zeros_like(probe.free)
    same = torch.ones_like(std, dtype=torch.bool)
    for index in range(LOOKS):
        near = (probe.adversarial + probe.noise_near(index)).clamp(low, high)
        same &= probe.batch.vae.encode(near).std == std
    return same.double().mean(1) > CLAMPED


@torch.no_grad()
def saturated(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where nearly all pixels of the attacked mean reconstruction are at an end of the range."""
    low, high = probe.ball.box
    pixels = probe.batch.vae.decode(probe.batch.vae.encode(probe.adversarial).mean).flatten(1)
    distance = torch.minimum((pixels - low).abs(), (pixels - high).abs())
    return (distance <= ENDS * (high - low)).double().mean(1) > SATURATED
