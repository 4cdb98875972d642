"""Any foolbox attack that can work on a VAE, as an optimiser at a radius and as a search for margins."""

from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.bridge.library import Kind, described, innermost, kind_of, load
from vaerdict.attacks.margins.bisection import MarginSearch, Trail
from vaerdict.attacks.margins.minimum import NEAR
from vaerdict.attacks.margins.verify import place
from vaerdict.attacks.margins.walk import approach, is_damage
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Ends
from vaerdict.attacks.threat import COUNTS, Ball, scaled, where
from vaerdict.options import require


@dataclass(frozen=True, eq=False)
class FoolboxAttack:
    """An attack of foolbox (Rauber et al., JOSS 2020), for `attack(options=...)` and `attack_margin(searches=[...])`.

    The attack sees pixels in [0, 1], whatever the model's range; lengths among its own options (`init_epsilon`,
    `abs_stepsize`) are meant in that unit, while radii and margins stay in the model's. Attacks that climb the
    gradient of a loss take the objective's, with fresh noise per step; all others know only whether, or by how much,
    the damage exceeds `r`, and so want the objective "damage". A random `Delta` is then judged by its quantile over
    fixed draws. As always, the judge alone decides success, on fresh ones.

    At a radius, an attack with an `epsilon` looks within it. A minimisation attack does not: as in foolbox itself, the
    perturbation that it found is shortened to the radius where it is longer, and left where it is shorter, so its
    damage there is no match for that of an attack made for a radius. For margins only minimisation attacks are taken;
    what they find is brought to the boundary as other searches' candidates are.

    Differences from foolbox: attacks that follow gradients begin at a hundredth of the radius from the clean image (of
    the way to damage along a random ray, where they minimise), since damage may have no slope at it; the perturbation,
    2 % longer where it was to be the smallest, is then applied to the clean image. `BoundaryAttack`,
    `HopSkipJumpAttack`, `PointwiseAttack` and Brendel-Bethge's begin, if they have no `init_attack`, where a short PGD
    in the whole box ends; a sample without damage there is given up by itself.

    Args:
        attack: the foolbox attack, with its own options.
        together: whether images go to foolbox in one batch, those of equal radius next to each other, rather than one
            by one. Much quicker, but foolbox draws for the batch as a whole, and some of its attacks let images
            influence each other: results then depend on the batch.
        pairs: fixed draws of `Delta` where it is random.
        batch_size: images handled at once.

    Attributes:
        settings: class and options of the attack, and foolbox's version.

    Raises:
        ImportError: foolbox is not there.
        TypeError: the attack is not foolbox's.
        ValueError: it cannot work on a VAE; the reason is given.

    >>> FoolboxAttack(load().attacks.L2PGD(steps=10)).name
    'foolbox-L2ProjectedGradientDescent'
    """

    attack: InitVar[Any]
    together: bool = field(default=False, kw_only=True)
    pairs: int = field(default=16, kw_only=True)
    batch_size: int = field(default=256, kw_only=True)
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self, attack: Any) -> None:
        for name in ("pairs", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        kind = kind_of(attack)
        version = load().__version__
        for name, value in (("_attack", attack), ("_kind", kind)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "settings", {**described(attack), "foolbox": version})

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        inner = innermost(self._inside[0])
        repeated = "" if inner is self._inside[0] else "-repeated"
        return f"foolbox-{type(inner).__name__.removesuffix('Attack')}{repeated}"

    @property
    def _inside(self) -> tuple[Any, Kind]:
        return self.__dict__["_attack"], self.__dict__["_kind"]

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give what the attack found at the ball's radii, and which samples had finite outputs.

        Raises:
            ValueError: norm, objective or the images' shape are not the attack's.
        """
        self._check(batch, objective, ball)
        delta, _, sane = self._run(batch, objective, ball, use)
        return ball.project(_shortened(delta, ball)), sane

    def narrow(self, batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
        """Give what the attack found, brought to the boundary on common draws (`options.selection`).

        No radius counts as tried without success, but the largest where nothing was found.

        Raises:
            ValueError: the attack is none for margins; norm, objective or the images' shape are not the attack's.
        """
        require(not self._inside[1].fixed, "a minimisation attack for margins", f"{self.name}, one for a given radius")
        require(is_damage(objective), "the objective 'damage' for margins", repr(objective.name))
        self._check(batch, objective, ball)
        use, question = f"margin/{self.name}", batch.question
        delta, found, sane = self._run(batch, objective, ball, use)
        delta = self._to_boundary(batch, ball, where(found, delta, torch.zeros_like(delta)), options, use)
        reached = batch.quantile(ball.apply(delta), f"polish/{use}", options.selection, question.p) >= NEAR * question.r
        clean = batch.quantile(batch.images, "select/clean", options.selection, question.p)
        found = found & reached
        return Trail(
            delta=delta,
            found=found,
            fragile=clean > question.r,
            sane=sane & clean.isfinite(),
            radii=ball.radius.unsqueeze(0),
            success=found.unsqueeze(0),
        )

    def _check(self, batch: Batch, objective: Objective, ball: Ball) -> None:
        _, kind = self._inside
        require(ball.norm in kind.norms, f"`norm` in {kind.norms} for {self.name}", repr(ball.norm))
        require(kind.loss or is_damage(objective), f"the objective 'damage' for {self.name}", repr(objective.name))
        shape = tuple(batch.images.shape[1:])
        require(not kind.plane or len(shape) == 3, f"images [channels, height, width] for {self.name}", shape)

    def _to_boundary(
        self, batch: Batch, ball: Ball, delta: Float[Tensor, "batch ..."], options: MarginSearch, use: str
    ) -> Float[Tensor, "batch ..."]:
        """Shorten a candidate to about the boundary, then place it there; a count has no length."""
        if ball.norm in COUNTS:
            return ball.project(delta)
        question = batch.question
        draws = options.selection if question.draws else 1
        noise = batch.noise(f"{use}/approach", min(draws, 64), question.draws, batch.vae.latent)
        delta = approach(batch, ball, ball.project(delta), noise)
        for _ in range(2):  # the box bends the ray: the second time begins near
            delta = place(batch, ball, delta, question.r * (1 + 1e-5), question.p, options.selection, use)
        return delta

    def _run(
        self, batch: Batch, objective: Objective, ball: Ball, use: str
    ) -> tuple[Float[Tensor, "batch ..."], Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
        from vaerdict.attacks.bridge.call import call

        attack, kind = self._inside
        ends = []
        for part in self._parts(ball):
            here = torch.zeros_like(ball.radius, dtype=torch.bool)
            here[part] = True
            mine, around = batch.select(here), ball.select(here)
            ends.append(call(attack, kind, mine, objective.part(part), around, use, self.pairs))
        delta, found, sane = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return delta, found, sane

    def _parts(self, ball: Ball) -> Iterator[slice]:
        """Give the images that one call of foolbox takes, which knows one radius only."""
        radii = ball.radius.tolist()
        if not self.together:
            radii = list(range(len(radii)))
        elif not self._inside[1].fixed:
            radii = [0.0] * len(radii)
        end = 0
        for _, run in groupby(radii):
            start, end = end, end + len(list(run))
            yield slice(start, end)


def _shortened(delta: Float[Tensor, "batch ..."], ball: Ball) -> Float[Tensor, "batch ..."]:
    """Scale L1 perturbations down to the radius, as foolbox does; the ball's own projection does so for the others."""
    if ball.norm != "1":
        return delta
    length = delta.flatten(1).abs().sum(1)
    return scaled(delta, (ball.radius / torch.where(length > 0, length, 1)).clamp_max(1))
