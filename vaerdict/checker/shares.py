"""What counted successes say of a probability: the lower bound of Clopper and Pearson (THEORY 7.4)."""

from dataclasses import dataclass

from flint import arb

from vaerdict.checker.balls import tail_of_binomial


@dataclass(frozen=True)
class Share:
    """A share of successes among trials, with the error that a bound from it may make.

    >>> Share(10, 10, arb(0.001)).exceeds(arb(0.5))  # 2^-10 < 0.001
    True
    """

    successes: int
    trials: int
    alpha: arb

    def exceeds(self, probability: arb) -> bool:
        """Tell whether the lower bound of Clopper and Pearson is above a probability.

        It is where so many successes, or more, would be rarer than `alpha` at that probability.
        """
        if not 0 < probability < 1:
            return bool(probability <= 0) and self.successes > 0
        return bool(tail_of_binomial(self.successes, self.trials, probability) < self.alpha)

    def lower(self, steps: int = 60) -> arb:
        """Give a number that the lower bound of Clopper and Pearson exceeds, by bisection."""
        low, high = 0.0, self.successes / self.trials
        for _ in range(steps):
            middle = (low + high) / 2
            low, high = (middle, high) if self.exceeds(arb(middle)) else (low, middle)
        return arb(low)
