"""One call of a foolbox attack: images in its unit, its random numbers, its criterion; a perturbation comes back."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.bridge.draws import seeded
from vaerdict.attacks.bridge.library import Kind, load, prepared
from vaerdict.attacks.bridge.model import DamageCriterion, DamageModel, fresh
from vaerdict.attacks.margins.walk import approach
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.threat import Ball, where

AWAY = 0.01
"""How far from the clean image those begin that follow gradients: of the radius, or of a random way to damage."""
SPARE = 1e-4
"""By how much, relatively, `r` must be exceeded before an attack may call it damage."""
_START = PGD(steps=20, restarts=1)

Found = tuple[Float[Tensor, "batch ..."], Bool[Tensor, " batch"], Bool[Tensor, " batch"]]
"""Perturbations in pixel units, whether they did damage by the attack's own criterion, and whether all was finite."""


def call(attack: Any, kind: Kind, batch: Batch, objective: Objective, ball: Ball, use: str, pairs: int) -> Found:
    """Run the attack on all images of a batch at once, within the first one's radius.

    Args:
        attack: foolbox's.
        kind: what is known of it.
        batch: the images.
        objective: of those that take a loss.
        ball: around the images; a minimisation attack does not look at its radius.
        use: names the draws.
        pairs: fixed draws of a random `Delta`.
    """
    draws = batch.question.draws
    fixed = batch.noise(f"{use}/fixed", pairs if draws else 1, draws, batch.vae.latent)
    model = DamageModel(_strict(batch), fixed, ball.mask)
    if not bool(ball.radius.any()):
        return _nothing(batch, model)
    if kind.starts:
        return _from_damage(attack, kind, batch, objective, ball, use, model)
    away = _away(batch, ball, use, fixed, kind) if kind.slopes else torch.zeros_like(batch.images)
    return _foolbox(attack, kind, batch, objective, ball, use, model, away)


def _strict(batch: Batch) -> Batch:
    """Give the batch with a slightly larger `r`, so that what just reaches it is not lost to rounding."""
    return replace(batch, question=replace(batch.question, r=batch.question.r * (1 + SPARE)))


def _nothing(batch: Batch, model: DamageModel) -> Found:
    """Give no perturbation, but look at the clean images."""
    with torch.no_grad():
        model(batch.images)
    return torch.zeros_like(batch.images), torch.zeros_like(model.sane), model.sane


def _away(batch: Batch, ball: Ball, use: str, noise: Tensor, kind: Kind) -> Float[Tensor, "batch ..."]:
    start = ball.random_start(batch.noise(f"{use}/away", *batch.images.shape[1:]))
    start = start if kind.fixed else approach(batch, ball, start, noise)
    return AWAY * where(start.flatten(1).isfinite().all(1), start, torch.zeros_like(start))


def _from_damage(
    attack: Any, kind: Kind, batch: Batch, objective: Objective, ball: Ball, use: str, model: DamageModel
) -> Found:
    """Begin where a short PGD in the whole box ends; samples without damage there are left out."""
    widest = Ball.widest("2", ball.box, ball.center, ball.mask)
    start, _ = _START.search(batch, objective, widest, f"{use}/damaging")
    delta, found, _ = _nothing(batch, model)
    with torch.no_grad():
        able = model((ball.center + start).clamp(*ball.box))[:, 1] > 0
    if bool(able.any()):
        mine = batch.select(able)
        part = DamageModel(_strict(mine), model.noise[able], ball.select(able).mask)
        none = torch.zeros_like(mine.images)
        delta[able], found[able], model.sane[able] = _foolbox(
            attack, kind, mine, objective, ball.select(able), use, part, none, starts=start[able]
        )
    return delta, found, model.sane


def _foolbox(
    attack: Any,
    kind: Kind,
    batch: Batch,
    objective: Objective,
    ball: Ball,
    use: str,
    model: DamageModel,
    away: Float[Tensor, "batch ..."],
    starts: Float[Tensor, "batch ..."] | None = None,
) -> Found:
    low, high = ball.box

    def unit(delta: Tensor) -> Tensor:
        return ((ball.center + delta - low) / (high - low)).clamp(0, 1)

    images, more = unit(away), {} if starts is None else {"starting_points": unit(starts)}
    loss = _loss(batch, objective, use, model, ball) if kind.loss else None
    mine = prepared(attack, ball.norm, loss)
    epsilon = float(ball.radius[0]) / (high - low) if kind.fixed else None
    with seeded(batch.seed, batch.sample_ids, f"{use}/foolbox", images.device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)  # SpatialAttack calls it the old way
        view = model.transform_bounds((0.0, 1.0))
        _, ends, success = mine(view, images, _criterion(kind, images), epsilons=epsilon, **more)
    # What was smallest elsewhere may miss by a hair here.
    spare = 1 + 2 * AWAY if kind.slopes and not kind.fixed else 1.0
    delta = (ends - images).detach() * ((high - low) * spare)
    finite = delta.flatten(1).isfinite().all(1)
    return where(finite, delta, torch.zeros_like(delta)), success & finite, model.sane & finite


def _criterion(kind: Kind, images: Tensor) -> Any:
    criterion = DamageCriterion(images)
    return load().criteria.TargetedMisclassification(1 - criterion.labels) if kind.targeted else criterion


def _loss(
    batch: Batch, objective: Objective, use: str, model: DamageModel, ball: Ball
) -> Callable[[Any, Any], Callable[[Any], Any]]:
    """Give what replaces an attack's `get_loss_fn`: the objective's loss, each time on fresh noise."""
    low, high = ball.box
    loss, noises = objective.loss(batch), fresh(batch, objective, use)

    def hook(_view: Any, _labels: Any) -> Callable[[Any], Any]:
        def summed(inputs: Any) -> Any:
            values = loss(model.seen(inputs.raw * (high - low) + low), next(noises))
            model.learn(values.detach())
            return type(inputs)(values.sum())

        return summed

    return hook
