"""Several searches in a row, each with an objective of its own, and per image the worst that any of them found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.describe import describe
from vaerdict.attacks.judge.evaluate import Evaluation, Verdict, evaluate, measure
from vaerdict.attacks.objectives import LatentDivergence, MaximumDamage, Objective, fitted
from vaerdict.attacks.objectives.independent import check_objective
from vaerdict.attacks.optimisers.apgd import APGD
from vaerdict.attacks.optimisers.common import Ends, Optimiser
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.optimisers.random_search import RandomSearch
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball, where
from vaerdict.options import require, require_known

_DAMAGE = MaximumDamage()


@dataclass(frozen=True, kw_only=True)
class Member:
    """One search of a suite.

    Args:
        options: of the search; where it is `onward`, those of an optimiser with `first`.
        objective: what to maximise; by default what the attack was asked for.
        onward: whether the search starts from the worst perturbation that the members before it found.
    """

    options: Optimiser
    objective: Objective | None = None
    onward: bool = False

    def __post_init__(self) -> None:
        fits = not self.onward or hasattr(self.options, "first")
        require(fits, "an optimiser with `first` where a member goes onward", self.options.name)

    def aim(self, asked: Objective) -> Objective:
        """Give the member's objective, or the one that the attack was asked for."""
        return asked if self.objective is None else self.objective

    def method(self, asked: Objective) -> str:
        """Give the name by which the results tell this member's."""
        return f"{self.options.name}-{self.aim(asked).name}" + ("-onward" if self.onward else "")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Searches in a row; the judge hears each, and an image's row shows the worst.

    Args:
        name: the beginning of the method's name in the results.
        members: the searches, in their order.
        batch_size: images searched at once.

    >>> standard().name, len(standard().members)
    ('standard', 5)
    """

    name: str
    members: tuple[Member, ...]
    batch_size: int = 256

    @classmethod
    def of(cls, options: Optimiser) -> "Suite":
        """Give the suite of a single search."""
        return cls(name=options.name, members=(Member(options=options),), batch_size=options.batch_size)

    def described(self, asked: Objective) -> dict[str, Any]:
        """Give what the rows keep of it: the options of a single search, or those of each member."""
        if len(self.members) == 1:
            return {"options": describe(self.members[0].options)}
        return {"suite": [{"method": member.method(asked), **describe(member.options)} for member in self.members]}

    def fitted(self, vae: Any, images: Tensor, question: Question) -> "Suite":
        """Give the suite for this model; refuse members' objectives that do not fit the images."""
        own = [None if one.objective is None else fitted(one.objective, vae) for one in self.members]
        for objective in own:
            if objective is not None:
                check_objective(objective, vae, images, question)
        members = (replace(one, objective=objective) for one, objective in zip(self.members, own, strict=True))
        return replace(self, members=tuple(members))

    def share(self, evaluation: Evaluation) -> Evaluation:
        """Split the allowed error evenly over the members (Bonferroni), so that its confidence holds for the worst."""
        return replace(evaluation, confidence=1 - (1 - evaluation.confidence) / len(self.members))

    def __post_init__(self) -> None:
        require(len(self.members) >= 1, "at least one of `members`", "none")
        require(self.batch_size >= 1, "`batch_size` >= 1", self.batch_size)
        require(not self.members[0].onward, "a first member that does not go onward", self.members[0].options.name)


def standard(asked: Objective = _DAMAGE) -> Suite:
    """Give the suite that needs no choice: 200 gradients per image, and 200 queries without any.

    `PGD` with four starts; `APGD`, which finds its own steps; where damage is asked for, the posterior's mean, which
    still has a slope where a decoder is saturated; random search, which needs no slope at all; and the worst of these
    pushed further.
    """
    other = LatentDivergence("l2") if isinstance(asked, MaximumDamage) else None
    return Suite(
        name="standard",
        members=(
            Member(options=PGD.within(100)),
            Member(options=APGD(steps=50, restarts=1)),
            Member(options=PGD.within(20), objective=other),
            Member(options=RandomSearch(queries=200)),
            Member(options=PGD(steps=30, restarts=1, step=0.3, probes=1), onward=True),
        ),
    )


def find_suite(suite: Suite | str, asked: Objective) -> Suite:
    """Give the suite of a name, for the objective that is asked for.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(suite, Suite):
        return suite
    known = {"standard": standard}
    require_known("suite", [suite], known)
    return known[suite](asked)


@dataclass(frozen=True, kw_only=True)
class Worst:
    """What a sample's worst member did, and what each did."""

    verdict: Verdict
    sane: bool
    members: list[dict[str, Any]]


def find_worst(
    suite: Suite, batch: Batch, asked: Objective, chunk: slice, ball: Ball, evaluation: Evaluation
) -> list[Worst]:
    """Run all members; an image's worst is a success rather than a failure, then the one with the most damage.

    Where damage is random, that of the worst is measured once more, on fresh noise: the largest of several estimates is
    too large.
    """
    share = suite.share(evaluation)
    heard: list[list[tuple[Verdict, bool]]] = [[] for _ in batch.images]
    told: list[list[dict[str, Any]]] = [[] for _ in batch.images]
    best, most = torch.zeros_like(batch.images), torch.full_like(ball.radius, -torch.inf)
    for place, member in enumerate(suite.members):
        aim = asked if member.objective is None else member.objective.part(chunk)
        options = replace(member.options, first=Given(best)) if member.onward else member.options  # type: ignore[type-var]
        delta, sane = options.search(batch, aim, ball, f"suite/{place}")
        verdicts = evaluate(batch, ball, delta, share, f"suite/{place}")
        damage = ball.radius.new_tensor([one.damage for one in verdicts]).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        best, most = where(damage > most, delta, best), torch.maximum(damage, most)
        for i, verdict in enumerate(verdicts):
            heard[i].append((verdict, bool(sane[i])))
            own = {} if member.objective is None else aim.describe(i)
            told[i].append({"method": member.method(asked), **own, **_told(verdict)})
    chosen = [max(one, key=_rank) for one in heard]
    verdicts = [verdict for verdict, _ in chosen]
    if len(suite.members) > 1 and batch.question.draws:
        verdicts = _measured_again(batch, ball, verdicts, evaluation)
    return [
        Worst(verdict=verdict, sane=sane, members=members)
        for verdict, (_, sane), members in zip(verdicts, chosen, told, strict=True)
    ]


def _rank(heard: tuple[Verdict, bool]) -> tuple[bool, bool, float]:
    verdict, sane = heard
    return verdict.success, sane and verdict.finite, verdict.damage


def _measured_again(batch: Batch, ball: Ball, verdicts: Sequence[Verdict], evaluation: Evaluation) -> list[Verdict]:
    adversarial = torch.stack([verdict.adversarial for verdict in verdicts])
    again = measure(batch, adversarial, ball.norm, evaluation, "evaluation/suite/worst")
    return [replace(verdict, damage=fresh.damage) for verdict, fresh in zip(verdicts, again, strict=True)]


def _told(verdict: Verdict) -> dict[str, Any]:
    known = verdict.finite
    return {
        "success": verdict.success,
        "damage": verdict.damage if known else None,
        "size": verdict.size if known else None,
    }


@dataclass(frozen=True, eq=False)
class Given:
    """A search that found its answer before: where another one is to begin."""

    delta: Tensor
    name: str = "given"
    batch_size: int = 1

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give it."""
        return self.delta, torch.ones_like(ball.radius, dtype=torch.bool)
