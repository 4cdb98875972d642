"""One certificate on the table: its numbers, each taken as proved here where it can be, as stated where it cannot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flint import arb

from vaerdict.checker.balls import larger_at_most
from vaerdict.checker.claims import Claim
from vaerdict.checker.model import TOLERANCE, Model
from vaerdict.checker.notes import Notes
from vaerdict.checker.shares import Share


class Malformed(Exception):
    """The certificate lacks a number or has a senseless one."""


@dataclass(frozen=True)
class Case:
    """A claim, its model, and the notes made on the way.

    What is proved is the claim at `margin * (1 - TOLERANCE)`, with the constants as proved where they exceed the
    stated ones by rounding.
    """

    claim: Claim
    model: Model
    notes: Notes

    def number(self, name: str, default: float | None = None) -> float:
        """Give a finite constant >= 0 of the certificate.

        Raises:
            Malformed: it is missing without a default, or something else.
        """
        value = self.claim.constants.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise Malformed(f"expected `{name}` as a finite number >= 0, got {value}")
        return value

    def count(self, name: str) -> int:
        """Give a whole number >= 0 of the certificate.

        Raises:
            Malformed: it is missing or something else.
        """
        value = self.claim.constants.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise Malformed(f"expected `{name}` as a whole number >= 0, got {value}")
        return value

    def numbers(self, name: str) -> list[float]:
        """Give a list of finite numbers >= 0, one per latent.

        Raises:
            Malformed: it is missing or something else.
        """
        values = self.claim.constants.get(name)
        if not isinstance(values, list) or not values:
            raise Malformed(f"expected `{name}` as a list of numbers, got {values}")
        if not all(isinstance(one, float) and 0 <= one < math.inf for one in values):
            raise Malformed(f"expected finite numbers >= 0 in `{name}`")
        self.same_latents(name, len(values))
        return values

    def same_latents(self, name: str, count: int) -> None:
        """Hold a number of latents against the model's."""
        if count != self.model.network.get("latent", count):
            self.notes.fail(f"`{name}` is about {count} latents, the model has {self.model.network['latent']}")

    @cached_property
    def margin(self) -> arb:
        """The margin at which the claim is checked."""
        return arb(self.claim.margin) * (1 - arb(TOLERANCE))

    @property
    def radius(self) -> arb:
        """The largest L2 norm of an input change at the margin checked."""
        pixels = math.prod(self.model.network["input_shape"])
        return self.margin * arb(pixels).sqrt() if self.claim.norm == "inf" else self.margin

    @property
    def anchored(self) -> bool:
        """Whether the clean reconstruction is the mean's."""
        if self.claim.reconstruction not in ("sampled", "anchored"):
            raise Malformed(f"expected a sampled or anchored reconstruction, got {self.claim.reconstruction}")
        return self.claim.reconstruction == "anchored"

    def lipschitz(self, name: str, role: str) -> arb:
        """Give a Lipschitz constant: not below the product over the layers, unless it rests on other evidence."""
        stated, found = self.number(name), self.model.maps[role]
        if isinstance(found, str):
            self.notes.state(f"the Lipschitz constant `{name}`")
            return arb(stated)
        if not self.by_layers(name):
            self.notes.state(f"the Lipschitz constant `{name}`, below the product over the layers")
            return arb(stated)
        self.notes.add(found.notes)
        return self.at_least(name, stated, found.constant)

    def std_slope(self) -> arb:
        """Give the Lipschitz constant `c` of the vector of standard deviations; one for all stands there `d` times."""
        if self.number("c") == 0 and self.model.has_constant_std:
            return arb(0)
        found = self.model.maps["std"]
        if isinstance(found, str) or found.output_shape is None:
            self.notes.state("the Lipschitz constant `c`")
            return arb(self.number("c"))
        self.notes.add(found.notes)
        copies = int(self.model.network["latent"]) // math.prod(found.output_shape)
        return self.at_least("c", self.number("c"), found.constant * arb(copies).sqrt())

    def at_least(self, name: str, stated: float, proved: arb) -> arb:
        """Give the larger of a stated and a proved bound, and say so where the stated one is too small."""
        if not arb(stated) * (1 + TOLERANCE) >= proved:
            self.notes.fail(f"`{name}` is stated as {stated!r}, and must be at least {float(proved.upper())!r}")
        return larger_at_most(proved, arb(stated))

    def rounding(self, name: str) -> arb:
        """Give a bound on the error of an evaluation; none is claimed where it is missing."""
        if name not in self.claim.constants:
            return arb(0)
        self.notes.state("the bounds on rounding")
        return arb(self.number(name))

    def shift(self, per: float = 1.0) -> arb:
        """Bound `|mu(x + delta) - mu(x)| / per` at the margin checked; `per` is a standard deviation, or 1.

        A stated bound holds at the claimed margin; it shrinks with the radius, rounding apart.
        """
        given = "shift" in self.claim.constants
        stated = arb(self.number("shift")) * (1 - arb(TOLERANCE)) if given else arb(0)
        if not self.by_layers("shift"):
            self.notes.state("the shift of the posterior mean")
            self.number("shift")
            return stated
        proved = self.lipschitz("b", "mean") * self.radius / per + self.rounding("mean_rounding")
        if given and not stated * (1 + 2 * arb(TOLERANCE)) >= proved:
            self.notes.fail(f"`shift` is {self.number('shift')!r}, and must be at least {float(proved.upper())!r}")
        return larger_at_most(stated, proved)

    def by_layers(self, name: str) -> bool:
        """Tell whether a number rests on the constants of the layers alone, which is so where nothing else is said."""
        return self.claim.constants.get(f"{name}_by") in ("global", "layers", None)

    @cached_property
    def reach(self) -> arb:
        """The distance between latents that the decoder can take: `(r - 2 E) / a`.

        Raises:
            Malformed: rounding alone may move a reconstruction by `r`.
        """
        room = arb(self.claim.r) - 2 * self.rounding("decoder_rounding")
        if not room > 0:
            raise Malformed(f"expected `r` above twice the rounding, got {self.claim.r!r}")
        return room / self.lipschitz("a", "decoder")

    def std(self, values: Sequence[float]) -> None:
        """Hold standard deviations against the model's, where they are constant; else take them as stated."""
        constant = self.model.constant_std
        if constant is None:
            self.notes.state("the standard deviations at the image")
        elif not all(abs(one - constant) <= 2.0**-23 * constant for one in values):
            self.notes.fail(f"the standard deviation of this model is {constant!r}, stated is {values[0]!r}")

    def std_moved(self, std: Sequence[float]) -> list[float]:
        """Give upper bounds of the standard deviations anywhere in the ball."""
        if self.model.has_constant_std and "std_moved" not in self.claim.constants:
            return list(std)
        moved = self.numbers("std_moved")
        if len(moved) != len(std) or any(after < before for after, before in zip(moved, std, strict=False)):
            self.notes.fail("`std_moved` is below `std`")
        if not self.model.has_constant_std:
            self.notes.state("how far the standard deviations move")
        return moved

    def clean_share(self, name: str = "successes") -> Share:
        """Give what the Monte-Carlo counts say of the event's probability."""
        successes, trials = self.count(name), self.count("samples")
        if not 0 <= successes <= trials:
            raise Malformed(f"expected at most {trials} successes, got {successes}")
        self.notes.state("the Monte-Carlo counts")
        return Share(successes, trials, self.alpha)

    @cached_property
    def alpha(self) -> arb:
        """The allowed error: as stated, and not above what the row's confidence leaves."""
        if self.claim.confidence is None:
            raise Malformed("expected a confidence")
        left = 1 - arb(self.claim.confidence)
        stated = arb(self.number("alpha", float(left.lower())))
        if not stated <= left + 1e-12:
            self.notes.fail(f"`alpha` is {float(stated)!r}, more than the confidence leaves")
        return stated if stated < left else left

    @property
    def level(self) -> arb:
        """The level that the probability must exceed."""
        return arb(self.claim.p)
