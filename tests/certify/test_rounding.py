"""What rounding adds to changes: no error is more, in any units; near an image there is far less of it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.certify import movement
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.movement import Movement, measure_movement
from vaerdict.certify.rounding import ChangeError, CleanError, measure_rounding, measured_error
from vaerdict.lipschitz import NoSoundBound
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions
from vaerdict.vae import borrowed


@settings(max_examples=40, deadline=None)
@given(order=st.sampled_from([2.0, math.inf]), local=st.booleans(), seed=st.integers(0, 2**31))
def test_no_sum_of_two_errors_is_larger(order: float, local: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *sizes: torch.randn(*sizes, dtype=torch.float64, generator=generator)  # noqa: E731
    root, units = draw(1, 4, 4) * 10 ** (2 * draw(1, 1, 4)), draw(1, 4).exp()
    ball = draw(500, 4)
    moved = ball / ball.norm(dim=1, keepdim=True) @ root[0].T
    clean = 0.1 * draw(1, 4)
    bound = ChangeError(
        clean=CleanError(clean.abs(), torch.zeros(1).double(), clean.norm(dim=1)),
        moved=moved.norm(dim=1).max()[None],
        shapes=root @ root.mT if local else None,
    )
    worst = torch.linalg.vector_norm((moved.abs() + clean.abs()) / units, ord=order, dim=1).max()
    assert worst <= float(bound.norm(units, order))


def test_shapes_that_are_not_finite_leave_the_other_bound() -> None:
    nothing = CleanError(torch.zeros(1, 2).double(), torch.zeros(1).double(), torch.zeros(1).double())
    shapes = torch.full((1, 2, 2), math.inf).double()
    for order in (2.0, math.inf):
        assert float(ChangeError(nothing, torch.ones(1).double(), shapes).norm(order=order)) == pytest.approx(1.0)


def model(outputs: int) -> GaussianVAE:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))
    encoder[1].weight.data *= 10.0
    encoder[3].bias.data[3:] -= 5.0  # small standard deviations, hence small balls
    decoder = nn.Sequential(nn.Linear(3, 64), nn.Unflatten(1, (1, 8, 8)))
    spread, std = ("log_variance", None) if outputs == 6 else ("constant", 0.1)
    return wrap(encoder, decoder, input_shape=(1, 8, 8), latent_shape=(3,), spread=spread, std=std)  # type: ignore[arg-type]


def movement_of(vae: GaussianVAE, images: Tensor) -> Movement:
    with borrowed(vae), torch.no_grad():
        bounds = ModelBounds(vae, images[:1], CertifyOptions())
        return measure_movement(bounds, images, vae.encode(images), 0.01, "2")


def _refused(*_: Any) -> Tensor:
    raise NoSoundBound("tried without")


@pytest.mark.parametrize("outputs", [3, 6], ids=["constant", "log-variance"])
def test_rounding_near_an_image_is_far_less_and_above_what_is_seen(
    outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, images = model(outputs), torch.rand(3, 1, 8, 8) * (torch.rand(3, 1, 8, 8) < 0.3)
    near = movement_of(vae, images)
    monkeypatch.setattr(movement, "bound_local_rounding", _refused)
    anywhere = movement_of(vae, images)
    for name in ("mean", "whitened", "coordinates"):
        assert (getattr(near, name).rounding < 0.5 * getattr(anywhere, name).rounding).all()
    steps = torch.randn(50, 3, 1, 8, 8)
    moved = (
        images
        + near.limit.reshape(-1, 1, 1, 1).float() * 0.999 * steps / steps.flatten(2).norm(dim=2)[..., None, None, None]
    )
    maps, std = vae.mean_map, near.std
    with torch.no_grad():
        computed = maps(moved.flatten(0, 1)).double().unflatten(0, (50, 3))
        exact = maps.double()(moved.flatten(0, 1).double()).unflatten(0, (50, 3))
    vae.float()
    off = computed - exact
    assert (off.norm(dim=2).amax(0) <= near.mean.rounding).all()
    assert ((off / std).norm(dim=2).amax(0) <= near.whitened.rounding).all()
    assert (off.abs().amax((0, 2)) <= near.coordinates.rounding).all()


def test_an_unmoved_error_is_measured_in_units() -> None:
    layer, images = nn.Linear(50, 2), torch.rand(3, 50)
    with torch.no_grad():
        outputs = layer(images)
        error = measured_error(measure_rounding(layer, images[:1]), images, outputs)
        off = (outputs.double() - layer.double()(images.double())).abs()
    units = torch.tensor([[1.0, 1e3]]).double().expand(3, -1)
    assert (error.norm(units) >= (off / units).norm(dim=1)).all()
    assert (error.norm(units) <= (off / units).norm(dim=1) * 1.01 + 1e-12).all()
    assert (error.norm(order=math.inf) >= off.amax(1)).all()
