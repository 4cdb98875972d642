"""One function per certificate: does its probability exceed the level at the margin? (THEORY 4, 5)."""

from collections.abc import Callable

from flint import arb

from vaerdict.checker.balls import larger, noncentral_cdf, normal_cdf
from vaerdict.checker.case import Case
from vaerdict.checker.moving import needed_probability, stays_above
from vaerdict.checker.quadratic import Quadratic, coordinate_probability, reflection_probability
from vaerdict.checker.seam import seam
from vaerdict.checker.stated import Malformed
from vaerdict.checker.statistical import center, hierarchical, latent_center
from vaerdict.checker.wide import stays_above_widely, wide_order


def isotropic(case: Case) -> bool:
    """Evaluate the non-central chi-square of THEORY 4.2."""
    std = case.numbers("std")
    case.std(std)
    moved = case.std_moved(std)
    if len({*std}) > 1 or len({*moved}) > 1:
        raise Malformed("expected one standard deviation for all latents")
    clean = arb(0) if case.anchored else arb(std[0]) ** 2
    spread = (arb(moved[0]) ** 2 + clean).sqrt()
    reach, shift = case.reach, case.shift()
    if not reach >= shift:  # beyond it the probability may rise with the spread
        return False
    return bool(noncentral_cdf(len(std), (reach / spread) ** 2, (shift / spread) ** 2) > case.level)


def barrett(case: Case) -> bool:
    """Evaluate the bounds of Barrett et al. as published (THEORY 4.1)."""
    std = case.numbers("std")
    case.std(std)
    slope = case.std_slope()
    t, shift, d = case.reach, case.shift(), len(std)
    norm = slope * case.margin + 2 * sum((arb(one) ** 2 for one in std), arb(0)).sqrt()
    markov = 1 - (shift * shift + norm * norm) / (t * t)
    constant = not slope > 0 and len(set(std)) == 1
    scale = arb(2).sqrt() * std[0] if constant else norm
    return bool(larger(markov, _inglot(d, t, shift, scale)) > case.level)


def _inglot(d: int, t: arb, shift: arb, scale: arb) -> arb:
    """Give 1 minus Inglot's bound of the chi-square tail, 0 where it does not hold."""
    u = ((t - shift) / scale) ** 2
    if d < 2 or not (t >= shift and u > d - 2):
        return arb(0)
    exponent = (d - (d - 1) * arb(d).log()) / 2 + arb(d) / 2 * u.log() - u / 2
    return 1 - exponent.exp() / (arb.pi().sqrt() * (u - d + 2))


def reflection(case: Case) -> bool:
    """Evaluate reflection and Gaussian correlation (THEORY 4.3)."""
    std = case.numbers("std")
    case.std(std)
    moved = case.std_moved(std)
    clean = [arb(0) if case.anchored else arb(one) ** 2 for one in std]
    form = Quadratic([arb(one) ** 2 + other for one, other in zip(moved, clean, strict=True)])
    return bool(reflection_probability(form, case.reach, case.shift(), case.claim.p) > case.level)


def coordinate(case: Case) -> bool:
    """Evaluate the worst case of bounds on each coordinate's move (THEORY 4.3), for a covariance that stays."""
    std, shifts = case.numbers("std"), case.numbers("shifts")
    case.std(std)
    if not case.has_constant_std or case.std_moved(std) != std:
        raise Malformed("expected standard deviations that do not move")
    case.notes.state("the shift of each coordinate")
    case.rounding("mean_rounding")
    share = 1 if case.anchored else 2
    variances = [share * arb(one) ** 2 for one in std]
    return bool(coordinate_probability(variances, shifts, case.reach) > case.level)


def shift(case: Case) -> bool:
    """Evaluate the Gaussian shift from the counted probability (THEORY 4.4), or what wider draws show (4.5)."""
    if not case.has_constant_std:
        raise Malformed("expected standard deviations that do not move")
    whitened, share = case.whitened(), case.clean_share()
    if wide_order(case):
        return stays_above_widely(case, share, whitened, [(arb(1), arb(1))])
    return share.exceeds(needed_probability(case.level, whitened))


def shift_moving(case: Case) -> bool:
    """Evaluate the shift where standard deviations move too (THEORY 4.5)."""
    low, high = case.numbers("ratio_low"), case.numbers("ratio_high")
    case.notes.state("how far the standard deviations move")
    whitened, share = case.whitened(), case.clean_share()
    ratios = [(arb(least), arb(most)) for least, most in zip(low, high, strict=True)]
    if not all(0 < least <= 1 <= most for least, most in zip(low, high, strict=True)):
        return False
    if wide_order(case):
        return stays_above_widely(case, share, whitened, ratios)
    return stays_above(case.level, share, whitened, ratios)


def deterministic(case: Case) -> bool:
    """Compare the means' reconstructions (THEORY 4.8); a slope on a ball of latents is taken as stated."""
    if case.claim.constants.get("a_by", "global") == "global":
        return bool(case.shift() <= case.reach)
    case.notes.state("the decoder's slope on a ball around the mean")
    shift, slope = case.shift(), arb(case.number("a"))
    return bool(shift <= case.number("ball") and slope * shift <= case.room)


def coupling(case: Case) -> bool:
    """Compare draw by draw: enough of them must leave room for the shift (THEORY 4.11).

    Were the probability at most the level, so many of the draws would be rarer than `alpha`.
    """
    share = case.clean_share()
    if not case.reach >= case.shift():  # no draw leaves room for more
        return False
    if not case.has_constant_std:
        case.notes.state("how far the standard deviations move")
    return share.exceeds(case.level)


def support(case: Case) -> bool:
    """Recompute the mass of the box of latents (THEORY 4.9); what the decoder makes of it is taken as stated."""
    case.notes.state("the bounds propagated through the model")
    if case.claim.reconstruction != "mean":
        latents = case.latent * (1 if case.anchored else 2)
        width = arb(case.number("quantile"))
        if not (2 * normal_cdf(width) - 1) ** latents > case.level:
            return False
    return case.number("tau") <= case.claim.r


METHODS: dict[str, Callable[[Case], bool]] = {
    "barrett": barrett,
    "isotropic": isotropic,
    "reflection": reflection,
    "seam": seam,
    "coordinate": coordinate,
    "shift": shift,
    "shift_moving": shift_moving,
    "deterministic": deterministic,
    "coupling": coupling,
    "support": support,
    "center": center,
    "latent_center": latent_center,
    "hierarchical": hierarchical,
}
"""The methods that are covered; any other is reported as not covered."""
