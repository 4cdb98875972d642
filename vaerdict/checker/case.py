"""One certificate on the table: its numbers, each taken as proved here where it can be, as stated where it cannot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flint import arb

from vaerdict.checker.balls import larger_at_most
from vaerdict.checker.maps import NO_CONSTANT, TOLERANCE
from vaerdict.checker.shares import Share
from vaerdict.checker.stated import Malformed, Stated


@dataclass(frozen=True)
class Case(Stated):
    """A claim, its model, and the notes made on the way.

    What is proved is the claim at `margin * (1 - TOLERANCE)`, with the constants as proved where they exceed the
    stated ones by rounding.
    """

    @property
    def has_constant_std(self) -> bool:
        """Whether the standard deviations do not depend on the image."""
        if self.model.facts is None:
            self.notes.state("whether the standard deviations are constant")
        return self.model.has_constant_std

    @cached_property
    def margin(self) -> arb:
        """The margin at which the claim is checked."""
        if self.claim.margin is None:
            raise Malformed("expected a margin")
        return arb(self.claim.margin) * (1 - arb(TOLERANCE))

    @property
    def radius(self) -> arb:
        """The largest L2 norm of an input change at the margin checked."""
        if self.claim.norm == "2":
            return self.margin
        if self.model.facts is None:
            self.notes.state("the number of pixels")
        return self.margin * arb(self.model.pixels).sqrt()

    @property
    def anchored(self) -> bool:
        """Whether the clean reconstruction is the mean's."""
        return self.claim.reconstruction == "anchored"

    def lipschitz(self, name: str, role: str) -> arb:
        """Give a Lipschitz constant, which may not be below the product over the layers."""
        stated, found = self.number(name), self.model.maps[role]
        if isinstance(found, str):
            self.notes.state(f"the Lipschitz constant `{name}` ({found})")
            return arb(stated)
        self.notes.add(found.notes)
        return self.at_least(name, stated, found.constant)

    def std_slope(self) -> arb:
        """Give the Lipschitz constant `c` of the vector of standard deviations; one for all stands there `d` times."""
        if self.has_constant_std:
            return arb(self.number("c"))
        found, facts = self.model.maps["std"], self.model.facts
        if facts is not None and facts.spread in NO_CONSTANT:
            raise Malformed(f"expected no constant `c` of a {facts.spread}")
        if isinstance(found, str):
            self.notes.state(f"the Lipschitz constant `c` ({found})")
            return arb(self.number("c"))
        self.notes.add(found.notes)
        # Where its output is not understood, one value may stand for all.
        copies = self.latent // math.prod(found.output_shape) if found.output_shape else self.latent
        return self.at_least("c", self.number("c"), found.constant * arb(copies).sqrt())

    def at_least(self, name: str, stated: float, proved: arb, slack: arb | float = 0.0) -> arb:
        """Give the larger of a stated and a proved bound, and say so where the stated one is too small.

        `slack` is what of the proved one may be rounding.
        """
        if not arb(stated) * (1 + TOLERANCE) + slack >= proved:
            self.notes.fail(f"`{name}` is stated as {stated!r}, and must be at least {float(proved.upper())!r}")
        return larger_at_most(proved, arb(stated))

    def rounding(self, name: str) -> arb:
        """Give a bound on the error of an evaluation, as stated."""
        self.notes.state("the bounds on rounding")
        return arb(self.number(name))

    def shift(self, per: float = 1.0) -> arb:
        """Bound `|mu(x + delta) - mu(x)| / per` at the margin checked; `per` is a standard deviation, or 1."""
        self.rounding("mean_rounding")
        if self.claim.constants.get("shift_by", "global") != "global":
            self.notes.state("the shift of the posterior mean")
            return arb(self.number("shift"))
        return self.shift_by(self.lipschitz("b", "mean") / per)

    def shift_by(self, slope: arb) -> arb:
        """Bound a shift from its slope; a stated one may not be below.

        A stated bound holds at the claimed margin; it shrinks with the radius, rounding apart.
        """
        given = "shift" in self.claim.constants
        stated = arb(self.number("shift")) * (1 - arb(TOLERANCE)) if given else arb(0)
        proved = slope * self.radius + self.rounding("mean_rounding")
        if given and not stated * (1 + 2 * arb(TOLERANCE)) >= proved:
            self.notes.fail(f"`shift` is {self.number('shift')!r}, and must be at least {float(proved.upper())!r}")
        return larger_at_most(stated, proved)

    @property
    def room(self) -> arb:
        """The distance between reconstructions that is left after rounding: `r - 2 E`.

        Raises:
            Malformed: rounding alone may move a reconstruction by `r`.
        """
        room = arb(self.claim.r) - 2 * self.rounding("decoder_rounding")
        if not room > 0:
            raise Malformed(f"expected `r` above twice the rounding, got {self.claim.r!r}")
        return room

    @cached_property
    def reach(self) -> arb:
        """The distance between latents that the decoder can take: `(r - 2 E) / a`."""
        return self.room / self.lipschitz("a", "decoder")

    def std(self, values: Sequence[float]) -> None:
        """Hold standard deviations against the model's, where they are constant; else take them as stated."""
        constant = self.model.constant_std
        if constant is None:
            self.notes.state("the standard deviations at the image")
        elif not all(abs(one - constant) <= 2.0**-23 * constant for one in values):
            self.notes.fail(f"the standard deviation of this model is {constant!r}, stated is {values[0]!r}")

    def std_moved(self, std: Sequence[float]) -> list[float]:
        """Give upper bounds of the standard deviations anywhere in the ball."""
        if self.has_constant_std and "std_moved" not in self.claim.constants:
            return list(std)
        moved = self.numbers("std_moved")
        if len(moved) != len(std) or any(after < before for after, before in zip(moved, std, strict=False)):
            self.notes.fail("`std_moved` is below `std`")
        if not self.has_constant_std:
            self.notes.state("how far the standard deviations move")
        return moved

    def whitened(self) -> arb:
        """Bound the shift in standard deviations."""
        least = self.number("std_min")
        self.std([least])
        if not least > 0:
            raise Malformed("expected a positive `std_min`")
        return self.shift(per=least)

    def clean_share(self, successes: str = "successes", samples: str = "samples", statements: int = 1) -> Share:
        """Give what Monte-Carlo counts say of an event's probability.

        Args:
            successes: name of the count.
            samples: name of the number of draws.
            statements: how many share the allowed error of the certificate in equal parts.
        """
        found, trials = self.count(successes), self.count(samples)
        if not 0 <= found <= trials:
            raise Malformed(f"expected at most {trials} `{successes}`, got {found}")
        self.notes.state("the Monte-Carlo counts")
        return Share(found, trials, self.allowed(statements))

    def allowed(self, statements: int) -> arb:
        """Give the allowed error of one of so many statements: as stated, and not above what the confidence leaves."""
        if self.claim.confidence is None:
            raise Malformed("expected a confidence")
        left = (1 - arb(self.claim.confidence)) / statements
        stated = arb(self.number("alpha", float(left.lower())))
        if not stated <= left + 1e-12:
            self.notes.fail(f"`alpha` is {float(stated)!r}, more than the confidence leaves")
        return stated if stated < left else left

    @property
    def level(self) -> arb:
        """The level that the probability must exceed."""
        return arb(self.claim.p)
