"""Hierarchical models as the attacks see them: one flat latent that holds the noise of all levels, and the image.

Each level is conditioned on the attacked image and on what the levels above drew, so nothing else need know of levels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.attacks.batch import Meter
from vaerdict.options import require
from vaerdict.vae import VAE, HierarchicalVAE, Posterior


class TopDown(nn.Module):
    """The flat view of a hierarchical model; what it decodes is what the model draws, level after level.

    A latent is standard normal noise `[sum(levels)]`, which alone is drawn, followed by the image's values. The mean's
    noise is zero: every level then takes its mean, given the means above. One encoding and one decoding are one pass
    through all levels each, when costs are counted.

    Args:
        model: a torch module.

    Raises:
        TypeError: the model is not a torch module.
        ValueError: it has no levels, or one without latents.

    >>> class Two(nn.Module):
    ...     name, input_shape, input_range, levels = "two", (2,), (0.0, 1.0), (2, 2)
    ...     def posterior(self, images, earlier):
    ...         return Posterior(images + sum(earlier), torch.full_like(images, 0.5))
    ...     def decode(self, latents): return sum(latents)
    >>> view = TopDown(Two())
    >>> view.decode(view.encode(torch.ones(1, 2)).mean)
    tensor([[3., 3.]])
    """

    def __init__(self, model: HierarchicalVAE) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected a VAE that is a torch module, got {type(model).__name__}")
        self.levels = tuple(model.levels)
        require(bool(self.levels) and min(self.levels) >= 1, "`levels` of 1 latent or more each", self.levels)
        self.model = model
        self.name, self.input_range = model.name, model.input_range
        self.input_shape = tuple(model.input_shape)
        self.latent = sum(self.levels)

    def encode(self, images: Float[Tensor, "batch ..."]) -> Posterior:
        """Give noise that is yet to be drawn, beside the images."""
        pixels = images.flatten(1)
        zeros = pixels.new_zeros(len(pixels), self.latent)
        mean = torch.cat([zeros, pixels], dim=1)
        std = torch.cat([torch.ones_like(zeros), torch.zeros_like(pixels)], dim=1)
        return Posterior(mean, std, given=pixels.shape[1])

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch ..."]:
        """Give the mean reconstruction of what the levels draw from this noise."""
        return self.model.decode([drawn.clone() for drawn in self.descend(latents)[1]])

    def descend(
        self, latents: Float[Tensor, "batch latent"], depth: int | None = None
    ) -> tuple[list[Posterior], list[Tensor]]:
        """Go down the first `depth` levels, by default all: their posteriors, and what each drew from its noise.

        Raises:
            ValueError: a posterior is not of the shape that `levels` says.
        """
        *noise, pixels = latents.split([*self.levels, latents.shape[1] - self.latent], dim=1)
        images = pixels.unflatten(1, self.input_shape)
        posteriors: list[Posterior] = []
        drawn: list[Tensor] = []
        for part in noise[:depth]:
            # Copies, since layers may work in place.
            posterior = self.model.posterior(images.clone(), [above.clone() for above in drawn])
            _check_shapes(posterior, tuple(part.shape), len(drawn))
            posteriors.append(posterior)
            drawn.append(posterior.sample(part))
        return posteriors, drawn


def flat(vae: Any) -> Any:
    """Give the flat view of a hierarchical model; any other is returned as it is.

    >>> flat(nn.Identity())
    Identity()
    """
    return TopDown(vae) if isinstance(vae, HierarchicalVAE) and not isinstance(vae, VAE) else vae


def behind(vae: Any) -> Any:
    """Give the user's own model: that behind a flat view, else the model itself.

    >>> behind(nn.Identity())
    Identity()
    """
    view = top_down(vae)
    return vae if view is None else view.model


def top_down(vae: Any) -> TopDown | None:
    """Give the flat view, also from behind a meter; None for a model that is not hierarchical."""
    module = vae.module if isinstance(vae, Meter) else vae
    return module if isinstance(module, TopDown) else None


def count_levels(vae: Any) -> int:
    """Give the number of a model's levels, one unless it is hierarchical.

    >>> count_levels(nn.Identity())
    1
    """
    view = top_down(vae) or top_down(flat(vae))
    return 1 if view is None else len(view.levels)


def mean_of(vae: Any, posterior: Posterior) -> Float[Tensor, "batch drawn"]:
    """Give the means of what a model draws; of a hierarchical one, each level's given the means above.

    >>> mean_of(nn.Identity(), Posterior(torch.ones(1, 2), torch.ones(1, 2)))
    tensor([[1., 1.]])
    """
    return posterior.drawn.mean if top_down(vae) is None else latents_of(vae, posterior.mean)


def latents_of(vae: Any, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch drawn"]:
    """Give what a model's levels draw from a flat latent, side by side; any other model's latents are its own.

    >>> latents_of(nn.Identity(), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    view = top_down(vae)
    return latents if view is None else torch.cat(view.descend(latents)[1], dim=1)


def check_levels(vae: Any, levels: Sequence[int] | None, weights: Sequence[float] | None) -> None:
    """Refuse levels that the model does not have, and weights that are not one per level.

    Raises:
        ValueError: it does not fit.

    >>> check_levels(nn.Identity(), (1,), None)
    Traceback (most recent call last):
    ValueError: expected `levels` below 1, the model's number of levels, got (1,)
    """
    count = count_levels(vae)
    if levels is not None:
        require(max(levels) < count, f"`levels` below {count}, the model's number of levels", levels)
    if weights is not None:
        wanted = count if levels is None else len(levels)
        require(len(weights) == wanted, f"{wanted} `level_weights`", len(weights))


def _check_shapes(posterior: Posterior, shape: tuple[int, ...], level: int) -> None:
    for what, found in (("mean", posterior.mean), ("std", posterior.std)):
        require(tuple(found.shape) == shape, f"a {what} of shape {shape} at level {level}", tuple(found.shape))
