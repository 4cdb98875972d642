"""The certificate by the seam: reflection behind the decoder's first layer `W` (THEORY 2, 4.3).

With `a` the constant of the layers after it, `|g(z') - g(z)| <= a |W (z' - z)|`.
"""

from flint import arb

from vaerdict.checker.balls import larger_at_most
from vaerdict.checker.case import Case
from vaerdict.checker.maps import TOLERANCE
from vaerdict.checker.parted import Parted, bound_variances
from vaerdict.checker.quadratic import Quadratic, reflection_probability
from vaerdict.checker.stated import Malformed


def seam(case: Case) -> bool:
    """Evaluate reflection for `W z`, by constants that the weights prove where they are known.

    >>> seam.__name__
    'seam'
    """
    if not case.has_constant_std:
        raise Malformed("expected standard deviations that do not move")
    std = case.numbers("std")
    case.std(std)
    try:
        parted = case.model.parted
    except ValueError as error:
        raise Malformed(str(error)) from None
    if isinstance(parted, Parted):
        case.notes.add(parted.notes)
    reach, shift = case.room / _rest(case, parted), case.shift_by(_slope(case, parted))
    form = Quadratic(_variances(case, parted, std))
    return bool(reflection_probability(form, reach, shift, case.claim.p) > case.level)


def _rest(case: Case, parted: Parted | str) -> arb:
    """Bound the Lipschitz constant of what comes after `W`."""
    stated = case.number("a_rest")
    if isinstance(parted, Parted):
        return case.at_least("a_rest", stated, parted.rest)
    case.notes.state(f"the Lipschitz constant `a_rest` ({parted})")
    return arb(stated)


def _slope(case: Case, parted: Parted | str) -> arb:
    """Bound the Lipschitz constant of `W mu`, in which the encoder's last matrix and `W` are one."""
    stated = case.number("b_seam")
    slope = parted.slope if isinstance(parted, Parted) else parted
    if isinstance(parted, Parted) and isinstance(slope, arb):
        return case.at_least("b_seam", stated, slope, parted.rounding)
    case.notes.state(f"the Lipschitz constant `b_seam` ({slope})")
    return arb(stated)


def _variances(case: Case, parted: Parted | str, std: list[float]) -> list[arb]:
    """Bound the variances of `W z` along its axes, in rising order; a stated one may not be below."""
    stated = sorted(case.numbers("variances"))
    if isinstance(parted, str):
        case.notes.state(f"the variances behind the decoder's first layer ({parted})")
        return [arb(one) for one in stated]
    proved = bound_variances(parted.weight, std, copies=1 if case.anchored else 2)
    if len(stated) != len(proved):
        raise Malformed(f"expected {len(proved)} `variances`, got {len(stated)}")
    for one, least in zip(stated, proved, strict=True):
        if not one * (1 + TOLERANCE) >= least:
            case.notes.fail(f"`variances` are stated with {one!r}, which must be at least {least!r}")
    return [larger_at_most(arb(one), arb(least)) for one, least in zip(stated, proved, strict=True)]
