"""Signs that the search failed, after Pintor et al. (NeurIPS 2022), restated for losses in place of labels."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.judge.indicators.probe import TOLERANCE, Probe
from vaerdict.attacks.optimisers.pgd import ascend
from vaerdict.attacks.threat import scaled, size

DIRECTIONS = 8
"""Random directions in which a loss is looked at; the paper takes 100 of a single image."""
SHORT = 0.1
"""A random change is at most this share of the perturbation: a longer one would undo a smooth attack, too. Our own."""
UNSTABLE = 0.1
"""Mean change of the loss in random directions, as a share of what the search gained, above which it is rough. A change
of a tenth of the perturbation moves a smooth quadratic loss by a fifth of it, times a cosine that is small. Our own."""
MORE_STEPS, MORE_STEP = 10, 0.1
"""Steps by which the search is continued, as many as the paper looks back on; the first, as a share of the radius."""
UNFINISHED = 0.05
"""Share of the loss's rise in these steps above which the search was cut short, as in the paper's code."""
POINTS = 8
"""Random points of the ball that must not do more damage."""


def zero_gradient(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where the loss has no gradient at all at the end, or none at a random point of the ball."""
    slopes = [probe.gradient(point) for point in (probe.end, probe.random_point(0))]
    return probe.free & ~torch.stack([slope.flatten(1).any(1) for slope in slopes]).all(0)


def unstable_loss(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where a small random change moves the loss by much of what the search gained: gradients mislead there."""
    moved = []
    for index in range(DIRECTIONS):
        change = probe.noise_near(index)
        longest = SHORT * size(probe.end, "2") / size(change, "2")
        change = scaled(change, longest.clamp_max(1))
        moved.append((probe.value(probe.room.clamp(probe.end + change)) - probe.at_end).abs())
    return probe.free & (torch.stack(moved).mean(0) > UNSTABLE * probe.gain)


def unfinished(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where a few more small steps still raise the loss by a good part of its whole rise.

    And, where the loss is random, by more than tolerance: a radius that is lost in the noise leaves nothing to finish.
    """
    draws, latent = probe.noise.shape[2:]
    noise = probe.batch.noise(f"{probe.use}/more", MORE_STEPS, draws, latent)
    further, _ = ascend(probe.loss, probe.ball, probe.end, noise, MORE_STEP)
    rise = probe.value(further) - probe.at_end
    little = TOLERANCE * probe.at_end.abs() if probe.random else torch.zeros_like(rise)
    return probe.free & (rise > torch.maximum(UNFINISHED * (rise + probe.gain), little))


def silent_success(probe: Probe, seen: Float[Tensor, " batch"] | None) -> Bool[Tensor, " batch"]:
    """Say where the search saw a better point than it returned; nothing where nothing was recorded."""
    if seen is None:
        return torch.zeros_like(probe.free)
    return probe.free & (seen - probe.at_end > TOLERANCE * probe.gain)


def not_monotone(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where half the perturbation does more damage than the whole."""
    return probe.beats(probe.damage(probe.end / 2), probe.damage(probe.end))


def weaker_than_noise(probe: Probe) -> Bool[Tensor, " batch"]:
    """Say where the best of a few random points of the ball does more damage."""
    points = [probe.damage(probe.random_point(index)) for index in range(POINTS)]
    return probe.beats(torch.stack(points).amax(0), probe.damage(probe.end))
