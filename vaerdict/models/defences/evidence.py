"""Purification by the model itself: a few steps towards images that it finds more likely."""

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.models.defences.counts import require_count
from vaerdict.models.defences.purified import as_module, require_drawn
from vaerdict.models.defences.slopes import value_and_slope
from vaerdict.models.objective import kl_to_prior
from vaerdict.options import require


class EvidenceAscent(nn.Module):
    """Climb the evidence lower bound of the image, at the posterior's mean and with Gaussian pixels.

    Each step adds `step_size` times the gradient of `-1/2 |x - g(mu(x))|^2 - std^2 KL(q(z|x) | N(0, 1))`, the bound
    times the pixels' variance, and cuts pixels off at the model's range. Attacks differentiate through all steps.

    Args:
        vae: the model whose evidence is climbed, a torch module; in `Purified`, most often the defended one.
        std: of a pixel given the latent, in pixel units.
        steps: of gradient ascent.
        step_size: share of the gradient that is added.

    Raises:
        ValueError: an option is out of its range, or the posterior has coordinates that are not drawn.
        TypeError: the model is not a torch module, or has several levels.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> import torch
    >>> EvidenceAscent(vae, std=0.5)(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """

    def __init__(self, vae: Any, *, std: float, steps: int = 3, step_size: float = 0.2) -> None:
        super().__init__()
        for name, value in (("std", std), ("step_size", step_size)):
            require(0 < value < math.inf, f"a finite `{name}` > 0", value)
        require_count("steps", steps)
        self.vae = as_module(vae)
        require_drawn(vae)
        self.input_range = vae.input_range
        self.std, self.steps, self.step_size, self.name = std, steps, step_size, "evidence"

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Take all steps."""
        for _ in range(self.steps):
            _, slope = value_and_slope(self.evidence, images)
            images = (images + self.step_size * slope).clamp(*self.input_range)
        return images

    def evidence(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the evidence lower bound at the posterior's mean, times `std^2`, up to a constant."""
        posterior = self.vae.encode(images.clone())
        missed = (images - self.vae.decode(posterior.mean)).flatten(1).square().sum(1)
        return -missed / 2 - self.std**2 * kl_to_prior(posterior.mean, posterior.std)

    def extra_repr(self) -> str:
        """Show the options: they are part of the fingerprint."""
        return f"std={self.std!r}, steps={self.steps}, step_size={self.step_size!r}"
