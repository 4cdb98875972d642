"""What `attacks.py` holds all attacks to: gradients counted by the model itself, and one judge for every result."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaerdict.vae import VAE, Posterior

TOLERANCE = 1e-5
"""Excess over the ball (relatively) and over the box that counts as rounding; it is cut off before judging."""
LINE_STEPS = 25
"""Halvings on the ray from the clean image to a successful one."""


class Counted(nn.Module):
    """A VAE that counts the images whose gradient was taken, and those that it encoded; calling it reconstructs."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae, self.name, self.latent = vae, vae.name, vae.latent
        self.input_shape, self.input_range = vae.input_shape, vae.input_range
        self.gradients = self.forwards = 0
        self.eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of each image, and count."""
        self.forwards += len(images)
        images = images.clone()
        if images.requires_grad:
            images.register_hook(self._count)
        return self.vae.encode(images)

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstruction of each latent."""
        return self.vae.decode(latents)

    def forward(self, images: Tensor) -> Tensor:
        """Give the mean reconstruction of each image."""
        return self.decode(self.encode(images).mean)

    def take(self, count: int) -> dict[str, float]:
        """Give the gradients and evaluations per image since the last time."""
        cost = {"gradients": self.gradients / count, "forwards": self.forwards / count}
        self.gradients = self.forwards = 0
        return cost


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an attack's result is worth: per image its damage or its margin, and how many images were refused."""

    values: Tensor
    refused: int


def norms(delta: Tensor, norm: str) -> Tensor:
    """Give the norm of each perturbation, in float64."""
    flat = delta.double().flatten(1)
    return flat.norm(dim=1) if norm == "2" else flat.abs().amax(1)


@torch.no_grad()
def distances(vae: VAE, clean: Tensor, images: Tensor) -> Tensor:
    """Give the L2 distance between the mean reconstructions of images and clean images, by a pass of its own."""
    moved, still = (vae.decode(vae.encode(each.clone()).mean) for each in (images, clean))
    return (moved.double() - still.double()).flatten(1).norm(dim=1)


def judge_damage(vae: VAE, clean: Tensor, images: Tensor, radius: float, norm: str) -> Judged:
    """Give the damage of images that keep ball and box; one that does not, or is not finite, did none."""
    kept = _keeps_box(images, vae.input_range) & (norms(images - clean, norm) <= radius * (1 + TOLERANCE))
    delta = _inside(images, vae.input_range).nan_to_num(0) - clean
    shrink = (radius / norms(delta, norm).clamp_min(1e-12)).clamp_max(1).to(delta)
    found = distances(vae, clean, clean + delta * shrink.reshape(-1, *[1] * (delta.ndim - 1)))
    kept &= found.isfinite()
    return Judged(values=torch.where(kept, found, 0.0), refused=int((~kept).sum()))


def judge_margin(vae: VAE, clean: Tensor, images: Tensor, r: float, norm: str) -> Judged:
    """Give the norm of each success, brought to the boundary on its ray; infinite where there is no success.

    All attacks get this line search, so that none wins by placing the same direction more finely.
    """
    delta = _inside(images, vae.input_range).nan_to_num(0) - clean

    def succeeds(share: Tensor) -> Tensor:
        return distances(vae, clean, clean + delta * share.to(delta).reshape(-1, *[1] * (delta.ndim - 1))) > r

    high = torch.ones(len(clean), dtype=torch.float64)
    kept = _keeps_box(images, vae.input_range)
    found, low = kept & succeeds(high), torch.zeros_like(high)
    for _ in range(LINE_STEPS):
        middle = (low + high) / 2
        success = succeeds(middle)
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)
    return Judged(values=torch.where(found, norms(delta, norm) * high, torch.inf), refused=int((~kept).sum()))


def _keeps_box(images: Tensor, box: tuple[float, float]) -> Tensor:
    flat = images.flatten(1)
    return ((flat >= box[0] - TOLERANCE) & (flat <= box[1] + TOLERANCE)).all(1)  # false for NaN, too


def _inside(images: Tensor, box: tuple[float, float]) -> Tensor:
    return images.float().clamp(*box)
