"""Certificates speak of the network as it is evaluated: where rounding is large, exact arithmetic proves nothing."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.toys import LinearVAE
from vaerdict.certify import certify, margin_isotropic, measure_sensitivity
from vaerdict.certify.rounding import CleanError, Rounding
from vaerdict.options import CertifyOptions, Reconstruction
from vaerdict.results import Row

ULP = 2.0**-4  # of float32 between 2^19 and 2^20
BIAS = 2.0**19 + 2.0**18
R, STD = 0.05, 1e-4


class Cancelling(LinearVAE):
    """One pixel, one latent, identities in exact arithmetic; a bias that is added and taken off again rounds them.

    As evaluated, the output is a multiple of the bias's unit in the last place.
    """

    def __init__(self, bias: float = BIAS, *, encoder: bool = False, decoder: bool = True) -> None:
        one = torch.ones(1, 1)
        super().__init__(one, one, STD, (-10.0, 10.0))
        maps = [(encoder, self.mean_map), (decoder, self.decoder)]
        for chosen, module in maps:
            if chosen:
                module.insert(len(module) if module is self.mean_map else 1, _shifted(bias))


def _shifted(bias: float) -> nn.Sequential:
    up, down = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, sign in ((up, 1.0), (down, -1.0)):
            layer.weight.fill_(1.0)
            layer.bias.fill_(sign * bias)
    return nn.Sequential(up, nn.LeakyReLU(1.0), down)


def image(pixel: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([pixel], dtype=dtype).reshape(1, 1, 1, 1)


BESIDE = ULP / 2 - 0.005
"""A pixel just below the middle between two outputs: a change of 0.01 makes the output jump by a whole unit."""


def share_within(vae: LinearVAE, clean: Tensor, delta: float, r: float, kind: Reconstruction) -> float:
    """Draw changes of the reconstruction as evaluated."""
    with torch.no_grad():
        here, there = vae.encode(clean), vae.encode(clean + delta)
        noise = torch.randn(2, 4000, 1).to(clean) if kind != "mean" else torch.zeros(2, 1, 1).to(clean)
        still = here.mean + here.std * (noise[1] if kind == "sampled" else 0 * noise[1])
        change = vae.decode(there.mean + there.std * noise[0]) - vae.decode(still)
    return float((change.flatten(1).double().norm(dim=1) <= r).double().mean())


def certified(vae: LinearVAE, clean: Tensor, r: float, kind: Reconstruction = "sampled", **more: Any) -> list[Row]:
    rows = certify(vae, clean, r=r, options=CertifyOptions(reconstruction=kind, **more))
    return [row for row in rows if row.kind == "certificate" and row.status == "ok"]


def bare_constants(vae: LinearVAE, clean: Tensor) -> tuple[float, float]:
    sensitivity = measure_sensitivity(vae, clean)
    assert not isinstance(sensitivity.decoder, str)
    assert not isinstance(sensitivity.mean, str)
    return float(sensitivity.decoder), float(sensitivity.mean)


# --- the naive certificate is false ---


@pytest.mark.parametrize("kind", ["sampled", "mean"])
def test_a_certificate_from_the_bare_constants_is_beaten_by_a_change_of_a_fifth_of_it(kind: Reconstruction) -> None:
    vae, clean, delta = Cancelling(), image(BESIDE), 0.01
    a, b = bare_constants(vae, clean)
    assert (a, b) == pytest.approx((1.0, 1.0))
    naive = margin_isotropic(latent=1, sigma=STD, a=a, b=b, r=R) if kind == "sampled" else R / (a * b)
    assert naive > 4.9 * delta
    assert share_within(vae, clean, 0.0, R, kind) == 1.0
    assert share_within(vae, clean, delta, R, kind) == 0.0
    exact = Cancelling().double()  # in exact arithmetic the naive certificate is true
    assert share_within(exact, image(BESIDE, torch.float64), delta, R, kind) == 1.0


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
def test_ours_certifies_nothing_there_by_constants_and_only_what_holds_by_draws(kind: Reconstruction) -> None:
    """Draws see the network as evaluated: `shift` may certify changes that stay this side of the jump."""
    vae, clean = Cancelling(), image(BESIDE)
    rows = certified(vae, clean, R, kind)
    assert {row.method for row in rows} >= ({"deterministic"} if kind == "mean" else {"isotropic", "coupling", "shift"})
    for row in rows:
        assert row.margin is not None
        if row.method == "shift":
            assert share_within(vae, clean, row.margin, R, kind) > 0.5
        else:
            assert row.margin == 0.0


def test_an_encoder_that_rounds_is_held_to_the_same() -> None:
    """Here the posterior mean jumps by 625 standard deviations, which `shift` must not miss either."""
    vae, clean = Cancelling(encoder=True, decoder=False), image(BESIDE)
    a, b = bare_constants(vae, clean)
    assert margin_isotropic(latent=1, sigma=STD, a=a, b=b, r=R) > 0.049
    assert share_within(vae, clean, 0.01, R, "sampled") == 0.0
    assert {row.margin for row in certified(vae, clean, R)} == {0.0}


def test_in_float64_the_same_weights_keep_their_margin() -> None:
    vae, clean = Cancelling().double(), image(BESIDE, torch.float64)
    (row,) = certified(vae, clean, R, methods=("isotropic",))
    assert row.margin == pytest.approx(margin_isotropic(latent=1, sigma=STD, a=1.0, b=1.0, r=R), rel=1e-3)


# --- what is certified is honoured ---


def widest_jump(vae: LinearVAE, clean: Tensor, radius: float) -> float:
    """Scan the interval, ends included, for the largest change of the mean reconstruction as evaluated."""
    moves = torch.linspace(-radius, radius, 4001, dtype=torch.float64).reshape(-1, 1, 1, 1)
    moved = (clean.double() + moves).to(clean)
    moved = moved[((moved.double() - clean.double()).abs() <= radius).flatten()]
    with torch.no_grad():
        change = vae.decode(vae.encode(moved).mean).double() - vae.decode(vae.encode(clean).mean).double()
    return float(change.abs().max())


@settings(max_examples=25, deadline=None)
@given(
    bias=st.floats(1e3, 1e7),
    units=st.floats(0.3, 40.0),
    pixel=st.floats(-1, 1, width=32),
    where=st.sampled_from([(True, False), (False, True), (True, True)]),
)
def test_no_change_within_a_certified_margin_exceeds_r_as_evaluated(
    bias: float, units: float, pixel: float, where: tuple[bool, bool]
) -> None:
    encoder, decoder = where
    vae, clean = Cancelling(bias, encoder=encoder, decoder=decoder), image(pixel)
    r = units * 2.0 ** (math.floor(math.log2(bias)) - 23)
    (row,) = certified(vae, clean, r, "mean")
    assert row.margin is not None
    assert widest_jump(vae, clean, row.margin) <= r
    assert row.margin < r


def test_margins_come_back_once_r_is_well_above_the_rounding() -> None:
    vae, clean = Cancelling(), image(BESIDE)
    margins = [row.margin for r in (R, 1.0, 4.0) for row in certified(vae, clean, r, "mean")]
    assert margins[0] == 0.0
    assert margins[1] is not None
    assert 0 < margins[1] < 1 - 2 * ULP / 2
    assert margins[2] == pytest.approx(4.0, rel=0.25)


def _nothing(rounding: Rounding, inputs: Tensor, outputs: Tensor, slack: float = 0.0) -> CleanError:
    off = torch.zeros_like(outputs.double().flatten(1))
    return CleanError(off, off[:, 0], off[:, 0])


def test_the_rule_is_what_makes_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bound on rounding taken away, `certify` gives the false margin: the tests above can fail."""
    from vaerdict.certify import movement, rounding, run

    monkeypatch.setattr(rounding.Rounding, "at", lambda self, norms: torch.zeros_like(norms))
    for module in (movement, run):  # what is measured would refute it
        monkeypatch.setattr(module, "measured_error", _nothing)
    vae, clean = Cancelling(), image(BESIDE)
    (row,) = certified(vae, clean, R, "mean")
    assert row.margin is not None
    assert row.margin > 0.049
    assert widest_jump(vae, clean, row.margin) > R
