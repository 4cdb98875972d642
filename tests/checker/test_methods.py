"""Every method on a model whose constants are known; then each number changed by one part in a million."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from flint import arb
from scipy.stats import beta, binom, norm

from tests.checker.runs import make_claim, scaling_vae
from vaerdict.certify import margin_barrett, margin_isotropic
from vaerdict.certify.export import export_model
from vaerdict.certify.moving import moving_probability as certified_moving
from vaerdict.certify.reflection import coordinate_probability, solve_reflection
from vaerdict.checker.case import Case
from vaerdict.checker.claims import Claim
from vaerdict.checker.methods import METHODS
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.notes import Notes
from vaerdict.checker.quadratic import Quadratic, reflection_probability
from vaerdict.checker.shares import Share
from vaerdict.checker.stated import Malformed

A, B, STD, LATENT, R = 2.0, 3.0, 0.25, 4, 2.5
SPREADS = [0.25, 0.2, 0.1, 0.001]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return read_model(export_model(tmp_path_factory.mktemp("run"), scaling_vae(A, B, STD, LATENT)))


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model with standard deviations that the checker does not know."""
    home = export_model(tmp_path_factory.mktemp("run"), scaling_vae(A, B, STD, LATENT))
    found = read_model(home)
    found.__dict__["constant_std"] = None
    return found


def check(model: Model, claim: Claim) -> tuple[bool, Notes]:
    notes = Notes()
    return METHODS[claim.method](Case(claim, model, notes)) and not notes.failures, notes


def accepts(model: Model, method: str, margin: float, constants: dict[str, Any], **facts: Any) -> bool:
    return check(model, make_claim(model.sha256, method, margin, constants, **facts))[0]


def largest(holds: Callable[[float], bool], upper: float, steps: int = 60) -> float:
    low, high = 0.0, upper
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def bounds(**more: Any) -> dict[str, Any]:
    return {"a": A, "b": B, "decoder_rounding": 0.0, "mean_rounding": 0.0, **more}


def with_shift(margin: float, **more: Any) -> dict[str, Any]:
    """Constants with the shift that the layers prove."""
    return bounds(shift=B * margin, shift_by="global", **more)


@cache
def reflection_margin() -> float:
    """The largest that the checker proves: the certifier's table is coarser than a millionth."""
    form = Quadratic([2 * one**2 for one in SPREADS])
    t = arb(R / A)
    return largest(lambda rho: bool(reflection_probability(form, t, arb(B * rho), 0.5) > 0.5), 0.5, 26)


@cache
def coordinate_margin() -> float:
    variances = 2 * torch.tensor([SPREADS], dtype=torch.float64).square()
    t = torch.tensor([R / A], dtype=torch.float64)
    unit = torch.tensor([[1.0, 0.5, 0.2, 0.0]], dtype=torch.float64)
    return largest(lambda rho: float(coordinate_probability(variances, rho * unit, t)) > 0.5, 2.0)


def shift_margin(successes: int, samples: int, alpha: float) -> float:
    clean = beta.ppf(alpha, successes, samples - successes + 1)
    return float(norm.ppf(clean) * STD / B * (1 - 1e-12))


def moving_probability(rho: float, e: float, successes: int, samples: int, alpha: float) -> float:
    """The certifier's own bound for a posterior whose standard deviations move by up to a share `e`."""
    clean = torch.tensor([float(beta.ppf(alpha, successes, samples - successes + 1))], dtype=torch.float64)
    ratios = torch.ones(1, LATENT, dtype=torch.float64)
    return float(
        certified_moving(clean, torch.tensor([rho * B / STD], dtype=torch.float64), (1 - e) * ratios, (1 + e) * ratios)
    )


ISOTROPIC = margin_isotropic(latent=LATENT, sigma=STD, a=A, b=B, r=R)
BARRETT = margin_barrett(latent=LATENT, sigma=STD, a=A, b=B, r=R)
DRAWN: dict[str, Any] = {"successes": 1990, "samples": 2000, "alpha": 1 - 0.999}
SHIFT = shift_margin(**DRAWN)
SURE = {"confidence": 0.999, "strength": "statistical"}
EQUAL = [STD] * LATENT


@cache
def moving_margin(e: float = 0.001) -> float:
    return largest(lambda rho: moving_probability(rho, e, **DRAWN) > 0.5, 1.0)


def of_isotropic(margin: float = ISOTROPIC) -> dict[str, Any]:
    return with_shift(margin, std=EQUAL, std_moved=EQUAL)


def case_of(name: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Margin, constants and other facts of a true claim of each method."""
    if name == "isotropic":
        return ISOTROPIC, of_isotropic(), {}
    if name == "barrett":
        return BARRETT, bounds(c=0.0, std=EQUAL), {}
    if name == "reflection":
        return reflection_margin(), with_shift(reflection_margin(), std=SPREADS, std_moved=SPREADS), {}
    if name == "coordinate":
        margin = coordinate_margin()
        shifts = [margin * one for one in (1.0, 0.5, 0.2, 0.0)]
        return margin, with_shift(margin, std=SPREADS, shifts=shifts), {}
    if name == "shift":
        return SHIFT, {**with_shift(SHIFT / STD), "std_min": STD, **DRAWN}, SURE
    if name == "shift_moving":
        ratios = {"ratio_low": [0.999] * LATENT, "ratio_high": [1.001] * LATENT}
        return moving_margin(), {**with_shift(moving_margin() / STD), "std_min": STD, **ratios, **DRAWN}, SURE
    if name == "deterministic":
        return R / (A * B), with_shift(R / (A * B)), {"reconstruction": "mean"}
    if name == "coupling":
        successes = int(binom.isf(0.001, 2000, 0.5)) + 1  # the fewest that are rare enough
        return 0.1, with_shift(0.1, successes=successes, samples=2000, alpha=1 - 0.999), SURE
    quantile = float(norm.ppf((1 + 0.5000001 ** (1 / (2 * LATENT))) / 2))
    return 0.1, {"tau": R, "quantile": quantile, "mass": 0.5}, {}


NAMES = (
    "isotropic", "barrett", "reflection", "coordinate", "shift", "shift_moving", "deterministic", "coupling", "support",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_true_claim_is_accepted(model: Model, varied: Model, name: str) -> None:
    margin, constants, facts = case_of(name)
    of = varied if name in ("reflection", "coordinate") else model
    fine, notes = check(of, make_claim(of.sha256, name, margin, constants, **facts))
    assert fine, notes.failures


MUTATIONS = [
    *[
        ("isotropic", one)
        for one in ("margin", "r", "p", "a-", "a+", "b-", "b+", "shift-", "std+", "std-", "std_moved-")
    ],
    *[("barrett", one) for one in ("margin", "r", "a-", "a+", "b-", "b+", "std+", "std-")],
    *[("reflection", one) for one in ("margin", "r", "a-", "a+", "b-", "b+", "shift-", "std_moved-")],
    *[("coordinate", one) for one in ("r", "a-", "a+", "shifts+")],
    *[("shift", one) for one in ("margin", "b-", "b+", "shift-", "std_min+", "std_min-", "successes")],
    *[("shift_moving", one) for one in ("margin", "b-", "b+", "shift-", "ratio_low-", "successes")],
    *[("deterministic", one) for one in ("margin", "r", "a-", "a+", "b-", "b+", "shift-", "shift+")],
    *[("coupling", one) for one in ("margin", "a-", "b-", "b+", "shift-", "successes")],
    *[("support", one) for one in ("quantile-", "tau+", "r")],
]


@pytest.mark.parametrize(("name", "change"), MUTATIONS)
def test_one_part_in_a_million_is_noticed(model: Model, varied: Model, name: str, change: str) -> None:
    margin, constants, facts = case_of(name)
    of = varied if name in ("reflection", "coordinate") else model
    factor = 1 + 1e-6 if change.endswith("+") else 1 - 1e-6
    key = change.rstrip("+-")
    if change == "margin":
        margin *= 1 + 1e-6
    elif change in ("r", "p"):
        facts = {**facts, change: R * (1 - 1e-6) if change == "r" else 0.5 * (1 + 1e-6)}
    elif change == "successes":
        constants = {**constants, "successes": constants["successes"] - 1}
    elif isinstance(constants[key], list):
        constants = {**constants, key: [one * factor for one in constants[key]]}
    else:
        constants = {**constants, key: constants[key] * factor}
    try:
        accepted = accepts(of, name, margin, constants, **facts)
    except Malformed:
        accepted = False
    assert not accepted


def test_the_certifiers_reflection_is_accepted(varied: Model) -> None:
    t, spread = torch.tensor([R / A], dtype=torch.float64), torch.tensor([SPREADS], dtype=torch.float64)
    margin = float(solve_reflection(lambda rho: 2 * spread**2, t=t, shift=lambda rho: B * rho, p=0.5, upper=t / B))
    assert 0.99 * reflection_margin() < margin < reflection_margin()
    assert accepts(varied, "reflection", margin, with_shift(margin, std=SPREADS, std_moved=SPREADS))


@pytest.mark.parametrize(
    ("d", "std", "r", "p"), [(2, 0.05, 4.0, 0.5), (10, 0.1, 8.0, 0.9), (50, 0.02, 1.5, 0.99), (3, 1e-4, 1.0, 0.5)]
)
def test_isotropic_margins_are_tight_to_a_millionth(d: int, std: float, r: float, p: float) -> None:
    of = unknown_model(d)
    margin = margin_isotropic(latent=d, sigma=std, a=A, b=B, r=r, p=p)
    constants = bounds(std=[std] * d, std_moved=[std] * d)
    assert accepts(of, "isotropic", margin, constants, r=r, p=p)
    assert not accepts(of, "isotropic", margin * (1 + 1e-6), constants, r=r, p=p)


def unknown_model(latent: int) -> Model:
    """A model of which nothing can be recomputed."""
    maps = {role: {"layers": None, "reason": ""} for role in ("mean", "std", "decoder")}
    return Model("", {"latent": latent, "input_shape": [1, 4, 4], "maps": maps, "repr": "X()"}, {})


@pytest.mark.parametrize("e", [1e-4, 0.01, 0.03])
def test_moving_spreads_are_accepted_up_to_the_certifiers_margin(model: Model, e: float) -> None:
    """By another of its three bounds each time."""
    ratios = {"ratio_low": [1 - e] * LATENT, "ratio_high": [1 + e] * LATENT}
    margin = moving_margin(e)
    constants = {**with_shift(margin / STD), "std_min": STD, **ratios, **DRAWN}
    assert accepts(model, "shift_moving", margin, constants, **SURE)
    grown = {**with_shift(margin * (1 + 1e-6) / STD), "std_min": STD, **ratios, **DRAWN}
    assert not accepts(model, "shift_moving", margin * (1 + 1e-6), grown, **SURE)


def test_the_maximum_norm_costs_the_root_of_the_pixels(model: Model) -> None:
    assert accepts(model, "isotropic", ISOTROPIC / 4, of_isotropic(), norm="inf")
    assert not accepts(model, "isotropic", ISOTROPIC / 4 * (1 + 1e-6), of_isotropic(), norm="inf")


def test_what_is_not_recomputed_is_said(varied: Model) -> None:
    margin, constants, _ = case_of("reflection")
    _, notes = check(varied, make_claim(varied.sha256, "reflection", margin, {**constants, "shift_by": "local"}))
    assert notes.stated == [
        "the standard deviations at the image",
        "the bounds on rounding",
        "the shift of the posterior mean",
    ]


@pytest.mark.parametrize("more", [{}, {"a_by": "slopes"}])
def test_a_constant_below_the_product_is_refused(model: Model, more: dict[str, Any]) -> None:
    constants = {**bounds(std=EQUAL, std_moved=EQUAL), "a": A * 0.9, **more}
    margin = margin_isotropic(latent=LATENT, sigma=STD, a=A * 0.9, b=B, r=R)
    assert not accepts(model, "isotropic", margin, constants)


ROUNDED = {
    "mean_rounding": ("isotropic", "barrett", "reflection", "coordinate", "deterministic", "coupling", "shift"),
    "decoder_rounding": ("isotropic", "barrett", "reflection", "coordinate", "deterministic", "coupling"),
}


@pytest.mark.parametrize("source", ["global", "local"])
@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in ROUNDED.items() for name in names])
def test_a_rounding_left_out_is_refused(model: Model, varied: Model, key: str, name: str, source: str) -> None:
    margin, constants, facts = case_of(name)
    of = varied if name in ("reflection", "coordinate") else model
    if "shift" in constants:
        constants = {**constants, "shift_by": source, "shift": constants["shift"] * (1 - 1e-12)}
    assert accepts(of, name, margin, constants, **facts)
    with pytest.raises(Malformed, match=key):
        accepts(of, name, margin, {one: value for one, value in constants.items() if one != key}, **facts)


def test_coupled_draws_leave_room_for_the_shift(model: Model) -> None:
    _, constants, facts = case_of("coupling")
    far = R / (A * B) * (1 + 1e-6)
    assert not accepts(model, "coupling", far, {**constants, "shift": B * far}, **facts)


@pytest.mark.parametrize(
    "constants",
    [{}, {"a": math.nan}, {"a": -1.0}, {"a": "2"}, {"a": math.inf}, {"a": True}],
)
def test_senseless_numbers_are_refused(model: Model, constants: dict[str, Any]) -> None:
    given = {**bounds(std=EQUAL, std_moved=EQUAL), **constants}
    if not constants:
        del given["std"]
    with pytest.raises(Malformed, match=r"expected `(a|std)` as a (finite number|list)"):
        accepts(model, "isotropic", 0.01, given)


def test_rounding_shrinks_what_is_proved(model: Model) -> None:
    constants = {**of_isotropic(), "decoder_rounding": 1e-5}
    assert not accepts(model, "isotropic", ISOTROPIC, constants)
    with pytest.raises(Malformed, match="twice the rounding"):
        accepts(model, "isotropic", ISOTROPIC, {**constants, "decoder_rounding": R})


@pytest.mark.parametrize(("successes", "trials"), [(1990, 2000), (1100, 2000), (10, 10), (0, 10)])
def test_the_bound_of_clopper_and_pearson(successes: int, trials: int) -> None:
    share = Share(successes, trials, arb(0.001))
    exact = float(beta.ppf(0.001, successes, trials - successes + 1)) if successes else 0.0
    assert math.isclose(float(share.lower()), exact, rel_tol=1e-9)
    assert share.exceeds(arb(exact * (1 - 1e-9))) == (successes > 0)
    assert not share.exceeds(arb(exact * (1 + 1e-9) + 1e-12))
