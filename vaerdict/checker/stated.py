"""The constants of a certificate as stated, each refused where it is no number of its kind."""

import math
from dataclasses import dataclass

from vaerdict.checker.claims import Claim
from vaerdict.checker.model import Model
from vaerdict.checker.notes import Notes


class Malformed(Exception):
    """The certificate lacks a number or has a senseless one."""


@dataclass(frozen=True)
class Stated:
    """A claim, its model, and the notes made on the way."""

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
        values = self.listed(name)
        self.same_latents(name, len(values))
        return values

    def listed(self, name: str) -> list[float]:
        """Give a list of finite numbers >= 0, however many.

        Raises:
            Malformed: it is missing or something else.
        """
        values = self.claim.constants.get(name)
        if not isinstance(values, list) or not values:
            raise Malformed(f"expected `{name}` as a list of numbers, got {values}")
        if not all(isinstance(one, float) and 0 <= one < math.inf for one in values):
            raise Malformed(f"expected finite numbers >= 0 in `{name}`")
        return values

    def same_latents(self, name: str, count: int) -> None:
        """Hold a number of latents against the model's."""
        if count != self.latent:
            self.notes.fail(f"`{name}` is about {count} latents, the model has {self.latent}")

    @property
    def latent(self) -> int:
        """The model's number of latents."""
        if self.model.facts is None:
            self.notes.state("the number of latents")
        return self.model.latent
