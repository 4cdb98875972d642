"""Movements of posteriors: every observed one is below the bound, whatever the source, the norm and the spread."""

import math

import pytest
import torch
from torch import nn

from vaerdict.certify.model import ModelBounds
from vaerdict.certify.movement import Movement, measure_movement
from vaerdict.certify.propagation import unavailable
from vaerdict.certify.reach import Change, box_source, slope_source
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions, Norm
from vaerdict.vae import Posterior, borrowed


def small_vae(spread: str) -> GaussianVAE:
    torch.manual_seed(1)
    outputs = {"constant": 3, "log_variance": 6, "bounded": 4}[spread]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))
    decoder = nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), nn.Unflatten(1, (1, 1, 6)))
    std = None if spread == "log_variance" else 0.2
    return wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(3,), spread=spread, std=std)  # type: ignore[arg-type]


def measured(vae: GaussianVAE, x: torch.Tensor, norm: Norm = "2", **options: bool) -> tuple[Movement, Posterior]:
    with borrowed(vae), torch.no_grad():
        posterior = vae.encode(x)
        model = ModelBounds(vae, x[:1], CertifyOptions(norm=norm, **options))  # type: ignore[arg-type]
        return measure_movement(model, x, posterior, 0.5, norm), posterior


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("spread", ["constant", "log_variance", "bounded"])
@pytest.mark.parametrize("propagation", [False, True])
def test_no_observed_movement_is_larger(spread: str, norm: Norm, propagation: bool) -> None:
    if propagation and unavailable() is not None:
        pytest.skip(str(unavailable()))
    vae, x = small_vae(spread), torch.rand(3, 1, 1, 6)
    movement, posterior = measured(vae, x, norm, propagation=propagation)
    for share in (0.05, 0.3, 0.7, 0.999):
        rho = share * movement.limit
        low, high = movement.std_range(rho)
        steps = torch.randn(400, 3, 1, 1, 6)
        lengths = steps.flatten(2).norm(dim=2) if norm == "2" else steps.flatten(2).abs().amax(2)
        moved_x = (x + steps / lengths[..., None, None, None] * rho[:, None, None, None]).float()
        with torch.no_grad():
            moved = [vae.encode(one) for one in moved_x]
        for other in moved:
            change = (other.mean - posterior.mean).double()
            assert bool((change.norm(dim=1) <= movement.mean.at(rho)).all())
            assert bool(((change / movement.std).norm(dim=1) <= movement.whitened.at(rho)).all())
            assert bool((change.abs() <= movement.coordinates.at(rho)).all())
            assert bool((other.std.double() >= low).all() and (other.std.double() <= high).all())
    assert set(movement.mean.winners(0.2 * movement.limit)) <= ({"local", "box"} if propagation else {"local"})


def test_beyond_the_limit_nothing_is_claimed() -> None:
    movement, _ = measured(small_vae("constant"), torch.rand(2, 1, 1, 6))
    assert bool((movement.mean.at(1.01 * movement.limit) == math.inf).all())


def test_an_images_bounds_do_not_depend_on_its_batch() -> None:
    vae, x = small_vae("log_variance"), torch.rand(4, 1, 1, 6)
    together, alone = measured(vae, x)[0], measured(vae, x[2:3])[0]
    rho = 0.4 * alone.limit
    torch.testing.assert_close(together.limit[2:3], alone.limit)
    everyone = rho.expand(4)
    torch.testing.assert_close(together.whitened.at(everyone)[2:3], alone.whitened.at(rho), rtol=1e-5, atol=0.0)


def test_the_smallest_of_several_sources_counts_and_is_named() -> None:
    radii = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).double()
    steep = slope_source("global", radii[:, 1:], torch.tensor([[3.0], [1.0]]).double())
    local = slope_source("local", radii, torch.tensor([[1.0, 4.0], [2.0, 2.0]]).double())
    box = box_source("box", radii, torch.tensor([[2.0, 2.5], [0.1, 9.0]]).double())
    change = Change(sources=[steep, local, box], rounding=torch.tensor([0.0, 0.5]).double())
    rho = torch.tensor([0.5, 0.5]).double()
    torch.testing.assert_close(change.at(rho), torch.tensor([0.5, 0.6]).double())
    assert change.winners(rho) == ["local", "box"]
    torch.testing.assert_close(change.trusted().at(rho), torch.tensor([0.5, 1.0]).double())
    torch.testing.assert_close(change.at(4 * rho), torch.tensor([2.5, 2.5]).double())
