import pytest
import torch
from torch import nn

from tests.certify.propagation.gradients import extremes
from vaerdict.certify.propagation import BoundedMap, bound_reconstruction_change, box_shifts, estimate_cost, unavailable
from vaerdict.certify.propagation.cost import bytes_per_image, images_at_once

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"bound propagation is off: {unavailable()}")


@pytest.fixture
def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture
def decoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 9), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 3))).eval()


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_no_attack_moves_a_coordinate_further(encoder: nn.Sequential, norm: str) -> None:
    images, radii = torch.rand(3, 1, 3, 3), [0.05, 0.2, 0.6]
    shifts = box_shifts(BoundedMap(encoder, (1, 3, 3)), images, radii, norm)
    assert shifts.shape == (3, 3, 3)
    assert (shifts.diff(dim=1) >= 0).all()
    clean = encoder(images).double()
    for i, radius in enumerate(radii):
        least, greatest = extremes(encoder, images, radius * (1 - 1e-6), norm)
        assert (torch.maximum(greatest - clean, clean - least) <= shifts[:, i]).all()


def test_the_shifts_of_a_linear_mean_are_exact() -> None:
    layer = nn.Linear(6, 4).double()
    radii = [0.1, 1.0]
    shifts = box_shifts(BoundedMap(layer, (6,)), torch.randn(2, 6), radii, "2")
    exact = torch.tensor(radii, dtype=torch.float64)[:, None] * layer.weight.detach().norm(dim=1)
    assert (shifts >= exact).all()
    torch.testing.assert_close(shifts, exact.expand(2, -1, -1), rtol=1e-6, atol=1e-7)


def test_a_larger_ball_s_bound_serves_the_smaller(encoder: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded, images = BoundedMap(encoder, (1, 3, 3)), torch.rand(1, 1, 3, 3)
    clean = encoder(images).double().detach()
    half = {0.1: 5.0, 0.2: 1.0, 0.3: 2.0}
    monkeypatch.setattr(bounded, "box", lambda _, radius, *__: (clean - half[radius], clean + half[radius]))
    shifts = box_shifts(bounded, images, [0.1, 0.2, 0.3], "2")
    torch.testing.assert_close(shifts[0, :, 0], torch.tensor([1.0, 1.0, 2.0]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("radii", [[], [0.2, 0.1], [0.1, 0.1]])
def test_radii_must_increase(encoder: nn.Sequential, radii: list[float]) -> None:
    with pytest.raises(ValueError, match="expected increasing `radii`"):
        box_shifts(BoundedMap(encoder, (1, 3, 3)), torch.rand(1, 1, 3, 3), radii, "2")


def test_no_attack_moves_a_reconstruction_further(decoder: nn.Sequential) -> None:
    means, radius = torch.randn(4, 3), 0.4
    bounded = BoundedMap(decoder, (3,), forward=True)
    ball = bound_reconstruction_change(bounded, means, radius)
    ends = means - radius, means + radius
    box = bound_reconstruction_change(bounded, means, ends)
    assert (ball <= box * (1 + 1e-6)).all()
    clean = decoder(means)
    for bound, norm in ((ball, "2"), (box, "inf")):
        delta = torch.zeros_like(means)
        worst = torch.zeros(len(means))
        for _ in range(200):
            delta = torch.randn_like(means)
            delta = delta / delta.norm(dim=1, keepdim=True) if norm == "2" else delta.sign()
            moved = decoder(means + 0.999 * radius * delta)
            worst = torch.maximum(worst, (moved - clean).flatten(1).norm(dim=1).detach())
        assert (worst <= bound).all()
        assert (bound < 6 * worst).all(), "the bound says little"


def test_the_plan_keeps_a_batch_in_memory(decoder: nn.Sequential) -> None:
    network = BoundedMap(decoder, (3,)).network
    assert bytes_per_image(network, "IBP") < bytes_per_image(network, "CROWN")
    assert images_at_once(network, ["IBP", "CROWN"], 10 * bytes_per_image(network, "CROWN")) == 10
    assert images_at_once(network, ["CROWN"], 1) == 1


def test_the_cost_of_an_image_is_measured(encoder: nn.Sequential) -> None:
    bounded = BoundedMap(encoder, (1, 3, 3))
    cost = estimate_cost(bounded, torch.rand(1, 1, 3, 3))
    assert 0 < cost.seconds < 30
    assert cost.bytes == bytes_per_image(bounded.network, "CROWN")
