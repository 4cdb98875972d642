"""Certificates of smoothed and of hierarchical reconstructions, by the Gaussian shift (THEORY 4.4).

The counts are taken as stated, as they are wherever draws are.
"""

from flint import arb

from vaerdict.checker.case import Case
from vaerdict.checker.maps import TOLERANCE
from vaerdict.checker.moving import needed_probability
from vaerdict.checker.stated import Malformed

_STATEMENTS = 4
"""What must all be right about a centre: a candidate, enough other draws, its test, the counted share (THEORY 4.10)."""


def center(case: Case) -> bool:
    """Evaluate center smoothing by noise on the pixels (THEORY 4.10).

    >>> center.__name__
    'center'
    """
    noise = case.number("noise_std")
    if not noise > 0 or case.claim.noise_std != noise:
        raise Malformed(f"expected a positive `noise_std` that is the row's, got {noise!r}")
    return _keeps_share(case, case.radius / noise)


def latent_center(case: Case) -> bool:
    """Evaluate center smoothing by the posterior's own noise (THEORY 4.10).

    >>> latent_center.__name__
    'latent_center'
    """
    if case.claim.noise_std:
        raise Malformed(f"expected no noise on the pixels, got {case.claim.noise_std!r}")
    if not case.has_constant_std:
        raise Malformed("expected standard deviations that do not move")
    return _keeps_share(case, case.whitened())


def _keeps_share(case: Case, whitened: arb) -> bool:
    """Tell whether the ball around the centre keeps its share after a move of so many standard deviations.

    The centre itself was tested, and a moved image has enough candidates for one to lie in the ball.
    """
    share = arb(case.number("share"))
    if not arb(0.5) < share < 1:
        raise Malformed(f"expected `share` in (1/2, 1), got {float(share)!r}")
    if not case.clean_share("tested", "selection", _STATEMENTS).exceeds(1 - share):
        raise Malformed("expected enough draws `tested` to be in the centre's ball")
    if not (1 - share) ** case.count("candidates") <= case.allowed(_STATEMENTS):
        raise Malformed("expected enough `candidates`")
    return case.clean_share(statements=_STATEMENTS).exceeds(needed_probability(share, whitened))


def hierarchical(case: Case) -> bool:
    """Evaluate the shift of all levels together (THEORY 4.6); how far each level moves is the caller's word.

    >>> hierarchical.__name__
    'hierarchical'
    """
    case.notes.state("how far the levels' means move")
    slope, levels = arb(case.number("shift")), case.listed("whitened")
    if not slope**2 * (1 + TOLERANCE) >= sum((arb(one) ** 2 for one in levels), arb(0)):
        raise Malformed(f"expected `shift` of at least the root of the levels' squares, got {float(slope)!r}")
    return case.clean_share().exceeds(needed_probability(case.level, slope * case.radius))
