"""An attack on one VAE with perturbations that were found on another, whose weights the attacker has."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.describe import describe_named
from vaerdict.attacks.judge.indicators import Watched
from vaerdict.attacks.levels import flat
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Ends, Optimiser
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.threat import Ball
from vaerdict.options import require
from vaerdict.vae import VAE, HierarchicalVAE, borrowed, fingerprint


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """Options of a transferred attack: search on a surrogate, let the target's judge look at the end.

    The objective is the surrogate's own, in its latent space and with its reconstructions; the target is neither asked
    nor differentiated. Rows count what the target was asked, hence the judge's evaluations only: what the surrogate
    was asked is in `spent`.

    Args:
        vae: the surrogate, a torch module on the images' device, with the target's images and range of pixels; it comes
            back as it was lent.
        options: of the search on it, which also say by what optimiser.

    Attributes:
        spent: evaluations of the surrogate in all searches so far, in images, named as in `Meter.cost`; a full count
            needs this object to be used in one process.

    Raises:
        TypeError: the surrogate is not a torch module.

    >>> from vaerdict.vae import Posterior
    >>> class Identity(nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, images * 0)
    ...     def decode(self, latents): return latents
    >>> Transfer(vae=Identity(), options=PGD(steps=20)).name
    'transfer-pgd'
    """

    vae: VAE | HierarchicalVAE = field(repr=False)
    options: Optimiser = field(default_factory=PGD)
    spent: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.vae, nn.Module):
            raise TypeError(f"expected a surrogate VAE that is a torch module, got {type(self.vae).__name__}")

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return f"transfer-{self.options.name}"

    @property
    def batch_size(self) -> int:
        """Images searched at once."""
        return self.options.batch_size

    def described(self) -> dict[str, Any]:
        """Give the search's options, and the surrogate by its name and SHA-256."""
        assert isinstance(self.vae, nn.Module)
        surrogate = {"name": self.vae.name, "sha256": fingerprint(self.vae)}
        return {"surrogate": surrogate, "options": describe_named(self.options)}

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give what the search on the surrogate found, and which samples had a finite loss there.

        Raises:
            ValueError: the surrogate's images are of another shape or range than the target's; the objective does not
                fit it.
        """
        _check_same(self.vae, batch.vae)
        # The record is of the target's losses.
        objective = objective.objective if isinstance(objective, Watched) else objective
        with borrowed(flat(self.vae)) as lent:
            objective.check(lent, batch.images)
            meter = Meter(lent)
            there = Batch.of(meter, batch.images, batch.question, batch.seed, batch.sample_ids)
            ends = self.options.search(there, objective, ball, use)
        self.spent.update(meter.cost)
        return ends


def _check_same(surrogate: VAE | HierarchicalVAE, target: VAE) -> None:
    shape, other = tuple(target.input_shape), tuple(surrogate.input_shape)
    require(other == shape, f"a surrogate for images of shape {shape}", other)
    low_high, others = tuple(target.input_range), tuple(surrogate.input_range)
    require(others == low_high, f"a surrogate for pixels in {low_high}", others)
