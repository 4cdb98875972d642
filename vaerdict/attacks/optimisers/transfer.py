"""An attack on one VAE with perturbations that were found on another, whose weights the attacker has."""

from collections import Counter
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

from torch import nn

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.describe import describe_named
from vaerdict.attacks.judge.indicators import Watched
from vaerdict.attacks.levels import count_levels, flat
from vaerdict.attacks.objectives import Objective, WeightedSum, fitted
from vaerdict.attacks.objectives.levelled import Levelled
from vaerdict.attacks.optimisers.common import Ends, Optimiser
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.threat import Ball
from vaerdict.options import require
from vaerdict.vae import VAE, HierarchicalVAE, borrowed, fingerprint


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """Options of a transferred attack: search on a surrogate, let the target's judge look at the end.

    The objective is the surrogate's own, in its latent space and with its reconstructions; the target is neither asked
    nor differentiated. One that looks at all levels of a hierarchical target looks at all of the surrogate's. Rows
    count what the target was asked, hence the judge's evaluations only: what the surrogate was asked is in `spent`.

    Args:
        vae: the surrogate, a torch module on the images' device, with the target's images and range of pixels; it comes
            back as it was lent.
        options: of the search on it, which also say by what optimiser.

    Attributes:
        spent: evaluations of the surrogate in all searches so far, in images, named as in `Meter.cost`; a full count
            needs this object to be used in one process.

    Raises:
        TypeError: the surrogate is not a torch module, or `options` are not those of a search at a radius.

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
        if isinstance(self.options, type) or not isinstance(self.options, Optimiser):
            got = self.options.__name__ if isinstance(self.options, type) else type(self.options).__name__
            raise TypeError(f"expected `options` of a search at a radius, such as `PGD()`, got {got}")

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

    def using(self, options: Optimiser) -> "Transfer":
        """Give the same transfer with other options of its search; what is spent is counted in both."""
        other = replace(self, options=options)
        object.__setattr__(other, "spent", self.spent)
        return other

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give what the search on the surrogate found, and which samples had a finite loss there.

        Raises:
            ValueError: the surrogate's images are of another shape, range or type than the target's; the objective does
                not fit it.
        """
        _check_same(self.vae, batch)
        # The record is of the target's losses.
        objective = objective.objective if isinstance(objective, Watched) else objective
        with borrowed(flat(self.vae)) as lent:
            objective = _refitted(objective, count_levels(batch.vae), lent)
            objective.check(lent, batch.images)
            meter = Meter(lent)
            there = Batch.of(meter, batch.images, batch.question, batch.seed, batch.sample_ids)
            ends = self.options.search(there, objective, ball, use)
        self.spent.update(meter.cost)
        return ends


def _check_same(surrogate: VAE | HierarchicalVAE, batch: Batch) -> None:
    target = batch.vae
    shape, other = tuple(target.input_shape), tuple(surrogate.input_shape)
    require(other == shape, f"a surrogate for images of shape {shape}", other)
    low_high, others = tuple(target.input_range), tuple(surrogate.input_range)
    require(others == low_high, f"a surrogate for pixels in {low_high}", others)
    assert isinstance(surrogate, nn.Module)
    types = {weight.dtype for weight in surrogate.parameters() if weight.is_floating_point()}
    fits = not types or batch.images.dtype in types
    require(fits, f"a surrogate with weights in the images' {batch.images.dtype}", ", ".join(map(str, types)))


def _refitted(objective: Any, levels: int, surrogate: Any) -> Any:
    """Give an objective on a target with so many levels for the surrogate: all of one's levels are all of the other's.

    Raises:
        ValueError: the objective chooses or weighs levels that the surrogate does not have.
    """
    if isinstance(objective, WeightedSum):
        terms = [(weight, _refitted(term, levels, surrogate)) for weight, term in objective.terms]
        return replace(objective, terms=terms)
    inner = getattr(objective, "objective", None)  # of a wrapper, as a citation or a penalty
    if isinstance(inner, Objective) and is_dataclass(objective):
        return replace(objective, objective=_refitted(inner, levels, surrogate))  # type: ignore[type-var]
    if not isinstance(objective, Levelled):
        return objective
    count, chosen, weights = count_levels(surrogate), objective.levels, objective.level_weights
    whole = chosen is None or (levels > 1 and set(chosen) == set(range(levels)))
    if whole and weights is None:
        return fitted(replace(objective, levels=None), surrogate)  # type: ignore[arg-type]  # all of them have a loss
    fits = len(weights or ()) == count if whole else max(chosen or ()) < count
    said = f"{count} `level_weights`" if whole else f"`levels` below {count}"
    require(fits, f"{said}, the surrogate's number of levels", weights if whole else chosen)
    return fitted(objective, surrogate)  # type: ignore[arg-type]
