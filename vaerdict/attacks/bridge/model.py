"""A VAE as foolbox sees it: a classifier of two classes, "unharmed" and "harmed", that knows its clean images."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.bridge.library import load
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.question import Question, Reconstruction
from vaerdict.options import require
from vaerdict.vae import VAE, check_images

_foolbox = load()
_Model: Any = _foolbox.models.Model
_Misclassification: Any = _foolbox.criteria.Misclassification

BLOCK = 100
"""Steps whose noise is drawn at once."""


class DamageModel(_Model):
    """The logits `[0, |Delta| / r - 1]` of images near the clean ones: the second is larger where they do damage.

    Where `Delta` is random, `|Delta|` is the level's quantile over fixed draws, so that outputs are a function of the
    images; its gradient is that of the root mean square. Row `i` is compared with clean image `i`. Of a single clean
    image there may be any number of candidates; otherwise a call with another number of rows is refused, since nothing
    says which row belongs to which image.

    Args:
        batch: the clean images.
        noise: the fixed draws.
        mask: pixels that may change; others are taken from the clean images, whatever is asked.
        slope: a loss whose gradient is to stand in for the damage's, as an objective gives it (`noise` as in the
            batch's question); the outputs' values stay the damage's.
    """

    data_format = "channels_first"

    def __init__(
        self,
        batch: Batch,
        noise: Float[Tensor, "batch pairs draws latent"],
        mask: Tensor | None = None,
        slope: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.batch, self.noise, self.mask, self.slope = batch, noise, mask, slope
        self.sane = torch.zeros(len(batch.images), dtype=torch.bool, device=batch.images.device)
        """Which images had a finite output at least once."""

    @property
    def bounds(self) -> Any:
        """Least and greatest pixel value."""
        return _foolbox.types.Bounds(*self.batch.vae.input_range)

    def __call__(self, inputs: Any) -> Any:
        """Give the two logits of each row, as a tensor of the kind that was given."""
        native = isinstance(inputs, Tensor)
        images = inputs if native else inputs.raw
        with torch.set_grad_enabled(images.requires_grad):
            logits = self.logits(images)
        return logits if native else type(inputs)(logits)

    def logits(self, images: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows 2"]:
        """Give `[0, |Delta| / r - 1]`."""
        images = self.seen(images)
        margin = self._margin(images)
        self.learn(margin.detach())
        if self.slope is not None:
            loss = self.slope(images)
            margin = margin.detach() + loss - loss.detach()
        return torch.stack([torch.zeros_like(margin), margin], 1)

    def seen(self, images: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        """Give what the VAE is shown: pixels outside the mask are the clean images'."""
        clean = self.batch.images
        require(len(clean) in (1, len(images)), f"{len(clean)} rows, one per clean image", len(images))
        return images if self.mask is None else torch.where(self.mask, images, clean)

    def learn(self, values: Float[Tensor, " rows"]) -> None:
        """Remember which images had a finite value."""
        finite = values.isfinite()
        self.sane = self.sane | (finite if len(finite) == len(self.sane) else finite.any())

    def _margin(self, images: Tensor) -> Tensor:
        question = self.batch.question
        squared = self.batch.squared_change(self.batch.vae.encode(images), self.noise.expand(len(images), -1, -1, -1))
        smooth = squared.mean(1).clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
        exact = squared.detach().sqrt().kthvalue(int(question.p * squared.shape[1]) + 1, dim=1).values
        return (smooth - smooth.detach() + exact) / question.r - 1


class DamageCriterion(_Misclassification):
    """Adversarial is what does damage, by the outputs of a `DamageModel`; a tie is not.

    For foolbox the clean images are of class 0, "unharmed".

    Args:
        images: the clean ones, one row each.

    >>> bool(DamageCriterion(torch.zeros(1, 4))(torch.zeros(1, 4), torch.tensor([[0.0, 0.5]])))
    True
    """

    def __init__(self, images: Float[Tensor, "batch ..."]) -> None:
        super().__init__(torch.zeros(len(images), dtype=torch.int64, device=images.device))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.labels)} images)"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """Say per row whether the second logit is the larger."""
        return outputs[:, 1] > outputs[:, 0]


def foolbox_model(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    p: float = 0.5,
    reconstruction: Reconstruction = "mean",
    objective: Objective | None = None,
    pairs: int = 16,
    seed: int = 0,
) -> DamageModel:
    """Give a VAE as a foolbox model, to be attacked at these images with a `DamageCriterion`.

    Labels of zero do as well, and losses on logits push towards damage. Damage of mean reconstructions has no slope at
    the clean images, so start elsewhere (`random_start`, or an image nearby). Bounds are the VAE's range;
    `transform_bounds((0, 1))` gives what `HopSkipJumpAttack` takes for granted. The VAE must be in evaluation mode;
    foolbox also computes the gradients of weights that are not frozen.

    Args:
        vae: the model.
        images: the clean ones; row `i` of any later call is compared with image `i`.
        r: L2 distance between reconstructions that counts as damage, in pixel units.
        p: level in [1/2, 1).
        reconstruction: which change is meant.
        objective: whose loss gives the gradient, with fresh noise each time; by default the damage. The outputs stay
            the damage's, so the criterion does not change.
        pairs: fixed draws of `Delta` where it is random.
        seed: of the draws.

    Raises:
        ValueError: a part of the VAE is in training mode, or an argument is out of its range.

    >>> from vaerdict.vae import Posterior
    >>> class Identity(torch.nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.full_like(images, 0.1))
    ...     def decode(self, latents): return latents
    >>> foolbox_model(Identity().eval(), torch.zeros(1, 4), r=0.5)(torch.full((1, 4), 0.5))
    tensor([[0., 1.]])
    """
    require(pairs >= 1, "`pairs` >= 1", pairs)
    training = isinstance(vae, nn.Module) and any(part.training for part in vae.modules())
    require(not training, "a VAE in evaluation mode (`.eval()`)", "one in training mode")
    check_images(vae, images)
    question = Question(r=r, p=p, reconstruction=reconstruction)
    batch = Batch.of(vae, images.detach(), question, seed, tuple(range(len(images))))
    if objective is not None:
        objective.check(vae, images)
    noise = batch.noise("foolbox/fixed", pairs if question.draws else 1, question.draws, vae.latent)
    return DamageModel(batch, noise, slope=None if objective is None else _slope(batch, objective))


def _slope(batch: Batch, objective: Objective) -> Callable[[Tensor], Tensor]:
    loss, noises = objective.loss(batch), fresh(batch, objective, "foolbox")
    return lambda images: loss(images, next(noises))


def fresh(batch: Batch, objective: Objective, use: str) -> Iterator[Float[Tensor, "batch draws latent"]]:
    """Give fresh noise for one gradient after the other, as many as are asked for."""
    draws = objective.draws(batch.question)
    for block in count():
        yield from batch.noise(f"{use}/steps/{block}", BLOCK, draws, batch.vae.latent).unbind(1)
