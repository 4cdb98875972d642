"""A published attack as data, and what runs it: at a radius, for a margin, or for a sweep of its penalty."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks import run
from vaerdict.attacks.levels import flat
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.objectives import Objective, fitted
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.presets.radii import RadiusBisection
from vaerdict.attacks.presets.terms import Cited
from vaerdict.attacks.presets.units import in_pixels, scale_between, split_penalty, with_steps
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball
from vaerdict.attacks.tradeoff.curve import Tradeoff
from vaerdict.attacks.tradeoff.penalised import with_price
from vaerdict.attacks.tradeoff.sweep import sweep_penalty
from vaerdict.options import Reconstruction, require
from vaerdict.results import Row
from vaerdict.vae import VAE

Build = Callable[[Tensor | None, float], Objective]
"""From the targets, where there are any, and the paper's pixel unit in the model's, to the objective."""

OWN = ("norm", "objective", "options", "searches", "suite")
"""Arguments of an attack that a preset sets itself."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published attack: its objective, optimiser and threat model, in the paper's own pixel units.

    Args:
        name: by which it is found, and the end of the method's name in the results.
        authors: as papers cite them.
        venue: where it was published.
        year: when.
        what: the attack in a few words.
        objective: made from targets and scale.
        optimiser: with the published settings, restarts included.
        corrections: which flaw of the published code or description is corrected, and how; one sentence each.
        differences: what else is not as published, and why.
        norm: of the perturbation.
        radius: in the paper's pixel units; "box" where only the box limits the penalised form; "given" where the paper
            tries many, so that the caller must choose.
        pixel_range: the paper's.
        power: of the pixel unit in the loss: 0 for nats and latent units, 2 for squared pixels.
        reconstruction: which change is meant.
        targets: whether there are target images.
        weights: the published sweep of the penalty, where there is one.
        reach: the largest radius of the published margin search, where there is one, in the paper's pixel units.

    >>> from vaerdict.attacks.presets import presets
    >>> presets()["photoguard"].source
    'Salman et al., ICML 2023'
    """

    name: str
    authors: str
    venue: str
    year: int
    what: str
    objective: Build
    optimiser: Optimiser
    corrections: tuple[str, ...]
    differences: tuple[str, ...] = ()
    norm: AttackNorm = "2"
    radius: float | Literal["box", "given"] = "given"
    pixel_range: tuple[float, float] = (0.0, 1.0)
    power: Literal[0, 2] = 0
    reconstruction: Reconstruction = "sampled"
    targets: Literal["none", "needed", "optional"] = "none"
    weights: tuple[float, ...] = ()
    reach: float | None = None

    def __post_init__(self) -> None:
        fits = isinstance(self.radius, str) or 0 < self.radius < math.inf
        require(fits, "a finite `radius` > 0, 'box' or 'given'", self.radius)
        require(self.pixel_range[0] < self.pixel_range[1], "an increasing `pixel_range`", self.pixel_range)
        require(self.reach is None or 0 < self.reach < math.inf, "a finite `reach` > 0", self.reach)

    @property
    def source(self) -> str:
        """The citation: authors, venue and year."""
        return f"{self.authors}, {self.venue} {self.year}"

    @property
    def restarts(self) -> int:
        """Starts per image, of which the best end counts."""
        return getattr(self.optimiser, "restarts", 1)

    def options(self, vae: VAE, steps: int | None = None) -> Optimiser:
        """Give the optimiser in the model's pixel units, with another number of steps where wanted."""
        return with_steps(in_pixels(self.optimiser, self._scale(vae), self.power), steps)

    def attack(
        self,
        vae: VAE,
        images: Float[Tensor, "batch ..."],
        *,
        r: float,
        radius: float | Float[Tensor, " batch"] | None = None,
        targets: Float[Tensor, "targets ..."] | None = None,
        steps: int | None = None,
        **rest: Any,
    ) -> list[Row]:
        """Run the attack at its radius, or at another; one row per image, whose constants name the preset.

        Args:
            vae: the model.
            images: `[B, *input_shape]`, pixels in the model's `input_range`.
            r: as in `vaerdict.attacks.attack`.
            radius: in the model's pixel units; by default the paper's, converted by the widths of the pixel ranges.
            targets: one target image per image, where the preset has targets.
            steps: gradients per restart, instead of the published number.
            rest: more arguments of `vaerdict.attacks.attack`.

        Raises:
            ValueError: targets or radius are missing, an argument is the preset's own, or it is out of its range.
        """
        options, objective = self._parts(vae, images, targets, steps, self.radius if radius is None else "given", rest)
        return run.attack(
            vae, images, r=r, norm=self.norm, objective=objective, options=options,
            radius=self._radius(vae, images) if radius is None else radius,
            **{"reconstruction": self.reconstruction, **rest},
        )  # fmt: skip

    def margin(
        self,
        vae: VAE,
        images: Float[Tensor, "batch ..."],
        *,
        r: float,
        targets: Float[Tensor, "targets ..."] | None = None,
        steps: int | None = None,
        **rest: Any,
    ) -> list[Row]:
        """Estimate the margin as published, up to the published largest radius; one row per image.

        The arguments are those of `attack`, and `rest` those of `vaerdict.attacks.attack_margin`.

        Raises:
            ValueError: the paper estimates no margin, an argument is the preset's own, or it is out of its range.
        """
        require(self.reach is not None, "a preset whose paper estimates margins", repr(self.name))
        assert self.reach is not None
        optimiser, objective = self._parts(vae, images, targets, steps, self.reach, rest)
        return run.attack_margin(
            vae, images, r=r, norm=self.norm, objective=objective,
            options=MarginSearch(max_radius=self.reach * self._scale(vae), batch_size=optimiser.batch_size),
            searches=(RadiusBisection(optimiser=optimiser),), **{"reconstruction": self.reconstruction, **rest},
        )  # fmt: skip

    def sweep(
        self,
        vae: VAE,
        images: Float[Tensor, "batch ..."],
        targets: Float[Tensor, "targets ..."] | None,
        *,
        steps: int | None = None,
        **rest: Any,
    ) -> list[Tradeoff]:
        """Run the penalised attack for all published weights, converted to the model's pixels; one curve per image.

        Args:
            vae: the model.
            images: `[B, *input_shape]`, pixels in the model's `input_range`.
            targets: one target image per image.
            steps: gradients per restart, instead of the published number.
            rest: more arguments of `vaerdict.attacks.tradeoff.sweep_penalty`.

        Raises:
            ValueError: the paper sweeps no weight, or an argument is out of its range.
        """
        require(bool(self.weights), "a preset whose paper sweeps a weight", repr(self.name))
        scale = self._scale(vae)
        weights = [weight * scale ** (self.power - 2) for weight in self.weights]
        require(targets is not None, f"one `targets` for preset {self.name!r}", "none")
        assert targets is not None
        optimiser, _ = split_penalty(self.options(vae, steps))
        given = {"reconstruction": self.reconstruction, "objective": lambda goals: self.objective(goals, scale), **rest}
        return sweep_penalty(vae, images, targets, weights, optimiser, **given)

    def _scale(self, vae: VAE) -> float:
        return scale_between(self.pixel_range, vae.input_range)

    def _radius(self, vae: VAE, images: Tensor) -> float | Tensor:
        if self.radius == "box":
            return Ball.widest(self.norm, vae.input_range, images.detach().double()).radius
        if isinstance(self.radius, str):
            raise ValueError(f"expected a `radius` for preset {self.name!r}, whose paper tries many, got None")
        return self.radius * self._scale(vae)

    def _parts(
        self, vae: VAE, images: Tensor, targets: Tensor | None, steps: int | None, radius: float | str, rest: Any
    ) -> tuple[Optimiser, Cited]:
        """Give optimiser and objective; the penalty is the objective's, so that indicators judge what was climbed."""
        taken = ", ".join(f"`{name}`" for name in OWN if name in rest)
        require(not taken, f"no arguments that preset {self.name!r} brings itself", taken)
        optimiser, weight = split_penalty(self.options(vae, steps))
        self._check_targets(targets)
        scale, pixel_range = self._scale(vae), list(self.pixel_range)
        objective = with_price(fitted(self.objective(targets, scale), flat(vae)), weight, images)
        facts = {"source": self.source, "radius": radius, "pixel_range": pixel_range, "scale": scale}
        return optimiser, Cited(objective, self.name, facts)

    def _check_targets(self, targets: Tensor | None) -> None:
        wanted = {"none": targets is None, "needed": targets is not None, "optional": True}[self.targets]
        require(wanted, f"{'no' if self.targets == 'none' else 'one'} `targets` for preset {self.name!r}",
                "none" if targets is None else "some")  # fmt: skip
