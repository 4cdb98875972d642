"""The two verbs: `attack` at a given radius, `attack_margin` for the smallest radius. Images in, rows out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.contract import check_model
from vaerdict.attacks.describe import describe, describe_named
from vaerdict.attacks.judge.checks import look_again
from vaerdict.attacks.judge.evaluate import Evaluation, Verdict
from vaerdict.attacks.judge.indicators import Watched
from vaerdict.attacks.judge.rows import NOT_FINITE, Finding
from vaerdict.attacks.levels import flat
from vaerdict.attacks.margins.bisection import MarginSearch, threat
from vaerdict.attacks.margins.least import Bisection, Narrower, narrow_all, standard_searches
from vaerdict.attacks.margins.verify import shared, verify
from vaerdict.attacks.objectives import MaximumDamage, Objective, fitted
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.question import AttackNorm, Question, Reconstruction
from vaerdict.attacks.suite import Suite, Worst, find_suite, find_worst
from vaerdict.attacks.task import Task, check_radius
from vaerdict.attacks.threat import Ball, settle
from vaerdict.options import require, require_known
from vaerdict.results import Row
from vaerdict.vae import VAE

_DAMAGE = MaximumDamage()
_PGD = PGD.within(100)
_SEARCH = MarginSearch()
_BISECTION = (Bisection(),)
_EVALUATION = Evaluation()
_FINE_EVALUATION = Evaluation(samples=10_000)
"""A margin's excess over the truth is mostly the judge's interval, so a margin pays for a narrow one."""


def attack(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    *,
    radius: float | Float[Tensor, " batch"],
    r: float,
    p: float = 0.5,
    norm: AttackNorm = "2",
    mask: Bool[Tensor, "masks ..."] | None = None,
    objective: Objective = _DAMAGE,
    reconstruction: Reconstruction = "sampled",
    options: Optimiser = _PGD,
    suite: Suite | str | None = None,
    evaluation: Evaluation = _EVALUATION,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dataset: str = "",
    r_relative: float | None = None,
    witness_folder: Path | None = None,
) -> list[Row]:
    """Look for the most harmful perturbation of at most the given radius (THEORY 8), one row per image.

    A row's `damage` is the mean `|Delta|` at the best perturbation found; its `margin` is that perturbation's norm if
    it breaks r-robustness (`P(|Delta| <= r) <= p`, decided by the judge on fresh noise), else infinite; `rho` is the
    radius. `n_forward` counts evaluations of the encoder and of the decoder, each image or latent once and the judge's
    included, `n_backward` those that were differentiated; both are means over the chunk, rounded up; `time_s` is one
    image's share of the chunk's wall time.

    Args:
        vae: the model, a torch module; it comes back as it was lent.
        images: `[B, *input_shape]`, pixels in `input_range`; rounding outside it is cut off, with a warning.
        radius: one for all or one per image, in pixel units; for a count, a whole number.
        r: L2 distance between reconstructions that counts as damage, in pixel units.
        p: level in [1/2, 1).
        norm: of the perturbation: "2", "inf", "1", or a count of pixels ("0") or of values ("0-values").
        mask: which pixels may change, `[B, *input_shape]`, or `[1, *input_shape]` for all images; by default all may.
        objective: what to maximise.
        reconstruction: which change is meant (THEORY 1).
        options: of the search, which also say by what optimiser: `PGD`, `APGD`, `Adam` and others.
        suite: in place of `options` several searches, whose worst per image is the row: "standard", or your own.
        evaluation: of the judge.
        seed: of all noise; a sample's noise depends on it and on the sample's id only.
        sample_ids: one per image; by default their positions.
        dataset: the data's name, for the rows.
        r_relative: `r` as a share of a typical distance, for the rows.
        witness_folder: where to write one `.npz` per image with a verdict; rows name it relative to its parent.

    Raises:
        ValueError: an argument is out of its range or of another shape than the images ask for.
        TypeError: the model is not a torch module.

    >>> from vaerdict.vae import Posterior
    >>> class Identity(torch.nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.full_like(images, 0.1))
    ...     def decode(self, latents): return latents
    >>> (row,) = attack(Identity(), torch.zeros(1, 4), radius=0.5, r=0.4, reconstruction="mean")
    >>> f"{row.damage:.3f} {row.margin:.3f}"
    '0.500 0.500'
    """
    question = Question(r=r, p=p, norm=norm, reconstruction=reconstruction)
    require(suite is None or options is _PGD, "either `options` or a `suite`", "both")
    chosen = Suite.of(options) if suite is None else find_suite(suite, objective)
    _check_judge(question, chosen.share(evaluation))
    check_model(vae)
    view = flat(vae)
    objective = fitted(objective, view)
    task = Task(
        vae=view, images=settle(images, vae.input_range), mask=mask, question=question, objective=objective,
        evaluation=evaluation, method=chosen.name, batch_size=chosen.batch_size, how=chosen.described(objective),
        seed=seed, sample_ids=sample_ids, dataset=dataset, r_relative=r_relative, witness_folder=witness_folder,
    )  # fmt: skip
    chosen = chosen.fitted(view, task.images, question)
    radii = check_radius(radius, images, norm)
    given = torch.as_tensor(radius, dtype=torch.float64).cpu().expand(len(images)).tolist()

    def find(batch: Batch, part: Objective, chunk: slice) -> list[Finding]:
        ball = Ball(norm=norm, radius=radii[chunk], box=vae.input_range, center=batch.images, mask=task.mask_of(chunk))
        aim = Watched.of(part, ball) if evaluation.indicators else part
        worst = find_worst(chosen, batch, aim, chunk, ball, evaluation)
        verdicts = [one.verdict for one in worst]
        climbed = isinstance(part, MaximumDamage) or all(member.objective is None for member in chosen.members)
        seen = aim.best if isinstance(aim, Watched) and climbed else None
        checks = look_again(batch, part, ball, verdicts, evaluation, "radius", seen)
        return list(map(_at_radius, worst, given[chunk], checks))

    return task.run(find)


def attack_margin(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    p: float = 0.5,
    norm: AttackNorm = "2",
    mask: Bool[Tensor, "masks ..."] | None = None,
    objective: Objective = _DAMAGE,
    reconstruction: Reconstruction = "sampled",
    options: MarginSearch = _SEARCH,
    searches: Sequence[Narrower] = _BISECTION,
    suite: str | None = None,
    evaluation: Evaluation = _FINE_EVALUATION,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dataset: str = "",
    r_relative: float | None = None,
    witness_folder: Path | None = None,
) -> list[Row]:
    """Look for the smallest perturbation that breaks r-robustness: a margin from above (THEORY 8), one row per image.

    A row's `margin` is the norm, rounded up, of a perturbation at which the judge found `P(|Delta| <= r) <= p` with the
    evaluation's confidence, all attempts counted; infinite with a `reason` where no such perturbation was found. `rho`
    is the largest radius below it that was tried without success. Costs are counted as in `attack`, where the other
    arguments are described too.

    `searches` says how candidates are found: `Bisection`, `DDN`, `FMN`; of several, each sample takes the smallest.
    With `suite="standard"` these are all that know the norm.
    `options` are the bisection's, and for all searches those of the largest radius and of the way to a verdict.

    Raises:
        ValueError: an argument is out of its range or of another shape than the images ask for.
        TypeError: the model is not a torch module.

    >>> from vaerdict.vae import Posterior
    >>> class Identity(torch.nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.full_like(images, 0.1))
    ...     def decode(self, latents): return latents
    >>> (row,) = attack_margin(Identity(), torch.zeros(1, 4), r=0.4, reconstruction="mean")
    >>> f"{row.margin:.3f}"
    '0.400'
    """
    question = Question(r=r, p=p, norm=norm, reconstruction=reconstruction)
    _check_judge(question, shared(evaluation, options))
    require(suite is None or searches is _BISECTION, "either `searches` or a `suite`", "both")
    if suite is not None:
        require_known("suite", [suite], ["standard"])
        searches = standard_searches(norm, objective)
    require(len(searches) >= 1, "at least one of `searches`", searches)
    check_model(vae)
    view = flat(vae)
    objective = fitted(objective, view)
    how = {"options": describe(options), "searches": [describe_named(search) for search in searches]}
    task = Task(
        vae=view, images=settle(images, vae.input_range), mask=mask, question=question, objective=objective,
        evaluation=evaluation, method="+".join(search.name for search in searches), batch_size=options.batch_size,
        how=how, seed=seed, sample_ids=sample_ids, dataset=dataset, r_relative=r_relative,
        witness_folder=witness_folder,
    )  # fmt: skip

    def find(batch: Batch, part: Objective, chunk: slice) -> list[Finding]:
        ball = threat(batch, options, task.mask_of(chunk))
        trail = narrow_all(searches, batch, part, ball, options)
        verdicts = verify(batch, ball, trail, options, evaluation)
        margins = ball.radius.new_tensor([verdict.size if verdict else math.inf for verdict in verdicts])
        failures = trail.largest_failure(margins).tolist()
        around = ball.with_radius(torch.minimum(margins, ball.radius))
        checks = look_again(batch, part, around, verdicts, evaluation, "margin")
        return list(map(_of_margin, verdicts, failures, trail.found.tolist(), trail.sane.tolist(), checks))

    return task.run(find)


def _check_judge(question: Question, evaluation: Evaluation) -> None:
    if question.draws:
        evaluation.check_level(question.p)


def _at_radius(worst: Worst, radius: float, checks: dict[str, Any]) -> Finding:
    if worst.verdict.success:
        reason = ""
    elif not (worst.sane and worst.verdict.finite):
        reason = NOT_FINITE
    else:
        reason = "the perturbation found at this radius does not break r-robustness"
    told = {"members": worst.members} if len(worst.members) > 1 else {}
    return Finding(verdict=worst.verdict, rho=radius, fixed=True, reason=reason, checks={**checks, **told})


def _of_margin(verdict: Verdict | None, failure: float, found: bool, sane: bool, checks: dict[str, Any]) -> Finding:
    if verdict:
        reason = ""
    elif not sane:
        reason = NOT_FINITE
    elif found:
        reason = "no perturbation passed the judge"
    else:
        reason = f"nothing found up to the largest radius, {failure:g}"
    return Finding(verdict=verdict, rho=failure, fixed=False, reason=reason, checks=checks)
