"""foolbox itself, imported when it is first needed, and what the bridge must know of each of its attacks."""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from vaerdict.attacks.question import AttackNorm

REFUSED = {
    "BinarizationRefinementAttack": "made for models that binarise their inputs; it asks whether rounding pixels to a "
    "threshold leaves the output as it is",
    "DatasetAttack": "keeps the outputs of other images, but here an output is the damage to the attacked image",
    "L2FMNAttack": "its projection never shortens a perturbation (foolbox 3.3.4): the first step's length remains; "
    "`FMN` of this package does",
    "NewtonFoolAttack": "divides by the fourth power of the gradient's norm where Newton's step has the square "
    "(foolbox 3.3.4), so that its steps vanish where the damage is steep",
}
"""Attacks that cannot work, by class, each with the reason."""

_NORMS: dict[float, tuple[AttackNorm, ...]] = {0: ("0", "0-values"), 1: ("1",), 2: ("2",), float("inf"): ("inf",)}


def load() -> Any:
    """Import foolbox.

    Raises:
        ImportError: it is missing, or does not fit the installed SciPy.

    >>> load().attacks.L2PGD.__name__
    'L2ProjectedGradientDescentAttack'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it takes a filter from where SciPy < 2 still has it
            import foolbox
    except ImportError as error:
        raise ImportError(f"expected the package `foolbox` >= 3.3.4 (with scipy < 2), got: {error}") from error
    return foolbox


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How an attack must be run.

    Attributes:
        fixed: it looks for damage within a radius; otherwise for the smallest perturbation that does damage.
        norms: of the perturbation, those that it knows.
        loss: it can be given another loss.
        slopes: it follows gradients, and so must not begin where there is none.
        starts: it begins at an image that does damage.
        targeted: it knows targeted criteria only.
        plane: it needs images with height and width.
    """

    fixed: bool
    norms: tuple[AttackNorm, ...]
    loss: bool
    slopes: bool
    starts: bool
    targeted: bool
    plane: bool


def innermost(attack: Any) -> Any:
    """Give the attack that a foolbox `Repeated` repeats; any other as it is."""
    return innermost(attack.attack) if isinstance(attack, load().attacks.base.Repeated) else attack


def kind_of(attack: Any) -> Kind:
    """Give what must be known to run an attack.

    >>> kind_of(load().attacks.LinfPGD()).norms
    ('inf',)

    Raises:
        TypeError: this is no foolbox attack.
        ValueError: the attack cannot work on a VAE; the reason is given.
    """
    known = load().attacks
    if not isinstance(attack, known.Attack):
        raise TypeError(f"expected an attack of foolbox, such as foolbox.attacks.L2PGD(), got {type(attack).__name__}")
    attack = innermost(attack)
    for base in type(attack).__mro__:
        refused = base.__name__ in REFUSED and base.__module__.startswith("foolbox.")
        cured = base is known.L2FMNAttack and type(attack).project is not base.project
        if refused and not cured:
            raise ValueError(
                f"expected an attack that can work on a VAE, got {base.__name__}: {REFUSED[base.__name__]}"
            )
    loss = isinstance(attack, known.gradient_descent_base.BaseGradientDescent)
    begin = (known.BoundaryAttack, known.HopSkipJumpAttack, known.PointwiseAttack, *_brendel_bethge(known))
    return Kind(
        fixed=isinstance(attack, known.base.FixedEpsilonAttack),
        norms=_norms(attack),
        loss=loss,
        slopes=loss or isinstance(attack, _slopes(known)),
        starts=isinstance(attack, begin) and attack.init_attack is None,
        targeted=isinstance(attack, known.GenAttack),
        plane=isinstance(attack, (known.SpatialAttack, known.GaussianBlurAttack)),
    )


def _brendel_bethge(known: Any) -> tuple[type, ...]:
    return (known.brendel_bethge.BrendelBethgeAttack,)


def _slopes(known: Any) -> tuple[type, ...]:
    return (
        known.DDNAttack,
        known.EADAttack,
        known.L2CarliniWagnerAttack,
        known.VirtualAdversarialAttack,
        known.deepfool.DeepFoolAttack,
        known.fast_minimum_norm.FMNAttackLp,
    )


def _norms(attack: Any) -> tuple[AttackNorm, ...]:
    base = load().attacks.base
    flexible = isinstance(attack, base.FlexibleDistanceMinimizationAttack)
    chosen = getattr(attack, "_distance", None) if flexible else getattr(attack, "distance", None)
    if chosen is None:
        return get_args(AttackNorm)
    known = _NORMS.get(getattr(chosen, "p", math.nan))
    if known is None:
        raise ValueError(f"expected a distance among L0, L1, L2 and Linf, got {chosen}")
    return known


def prepared(attack: Any, norm: AttackNorm, loss: Callable[[Any, Any], Any] | None) -> Any:
    """Give a copy of the attack that measures in the norm, where it leaves that open, and climbs the loss."""
    fb, mine = load(), copy.copy(attack)
    if isinstance(mine, fb.attacks.base.Repeated):
        mine.attack = prepared(mine.attack, norm, loss)
        return mine
    if isinstance(mine, fb.attacks.base.FlexibleDistanceMinimizationAttack):
        distances = {0: fb.distances.l0, 1: fb.distances.l1, 2: fb.distances.l2, float("inf"): fb.distances.linf}
        mine._distance = next(distances[p] for p, norms in _NORMS.items() if norm in norms)
    if loss is not None:
        mine.get_loss_fn = loss  # the hook that foolbox documents, without a subclass per attack
    return mine


def described(attack: Any) -> dict[str, Any]:
    """Give class and options of an attack as JSON can hold them.

    >>> described(load().attacks.DDNAttack(steps=20))["steps"]
    20
    """
    options = {name: value for name, value in vars(attack).items() if not name.startswith("_") or name == "_distance"}
    return {"class": type(attack).__name__, **{name.strip("_"): _plain(value) for name, value in options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, load().attacks.Attack):
        return described(value)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    exact = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and abs(value) < 1e308)
    return value if exact else str(value)
