import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from tests.attacks.objectives.small import SHAPE, SmallVAE, batch_of, images_of
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.objectives import Layerwise
from vaerdict.attacks.objectives.conditioning import condition_number, conditioning_weights
from vaerdict.attacks.objectives.hooks import leaves
from vaerdict.attacks.question import Question
from vaerdict.vae import Posterior

NONE = torch.empty(4, 0, 3)


class Chain(nn.Module):
    """A VAE of given layers with a constant posterior; `middle` runs twice where `twice` says so."""

    def __init__(self, *layers: nn.Module, twice: bool = False) -> None:
        super().__init__()
        self.name, self.input_shape, self.input_range, self.latent = "chain", SHAPE, (0.0, 1.0), 64
        self.middle = nn.Sequential(*layers)
        self.twice = twice
        self.fails = False
        self.double().requires_grad_(False)

    def encode(self, images: Tensor) -> Posterior:
        mean = self.middle(images.flatten(1))
        mean = self.middle(mean) if self.twice else mean
        return Posterior(mean, torch.ones_like(mean))

    def decode(self, latents: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("no memory")
        return latents.reshape(-1, *SHAPE)


def batch_with(vae: nn.Module, count: int = 4) -> Batch:
    return Batch.of(Meter(vae), images_of(count), Question(r=1.0, reconstruction="mean"), 0, tuple(range(count)))


def hooks(vae: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in vae.modules())


def mean_square(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().flatten(1).mean(1)


def test_it_is_the_weighted_change_of_the_layers_times_the_outputs() -> None:
    vae, images, moved = SmallVAE(), images_of(4), images_of(4, seed=7)
    weights = {"encoder.1": 2.0, "encoder.2": 0.5, "decoder": 3.0, "decoder.3": 0.0}
    hidden = [vae.encoder[1](x.flatten(1)) for x in (moved, images)]
    output = [vae.decode(vae.encode(x).mean) for x in (moved, images)]
    inside = 2.0 * mean_square(*hidden) + 0.5 * mean_square(*(h.tanh() for h in hidden)) + 3.0 * mean_square(*output)
    found = Layerwise(weights).loss(batch_of(images))(moved, NONE)
    torch.testing.assert_close(found, inside * mean_square(*output))
    assert Layerwise(weights).describe(0) == {"objective": "layerwise", "weights": weights}


def test_by_conditioning_every_layer_that_runs_counts() -> None:
    vae, images, moved = SmallVAE(), images_of(4), images_of(4, seed=7)
    weights = conditioning_weights(leaves(vae))
    assert list(weights) == [f"encoder.{i}" for i in range(4)] + [f"decoder.{i}" for i in range(5)]
    by_hand = Layerwise(weights).loss(batch_of(images))(moved, NONE)
    torch.testing.assert_close(Layerwise().loss(batch_of(images))(moved, NONE), by_hand)


def test_weights_are_what_the_other_layers_lack_in_conditioning() -> None:
    layers = {name: nn.Linear(2, 2) for name in "ab"} | {"c": nn.ReLU()}
    layers["a"].weight.data = torch.diag(torch.tensor([8.0, 2.0]))
    layers["b"].weight.data = torch.diag(torch.tensor([-5.0, 1.0]))
    assert [condition_number(layer) for layer in layers.values()] == pytest.approx([4, 5, 1])
    assert conditioning_weights(layers) == pytest.approx({"a": 6 / 20, "b": 5 / 20, "c": 9 / 20})
    assert conditioning_weights({"a": layers["a"]}) == {"a": 1.0}


def test_condition_numbers_of_convolutions_and_of_poor_weights() -> None:
    convolution = nn.Conv2d(2, 3, 3)
    values = torch.linalg.svdvals(convolution.weight.detach().double().reshape(3, 18))
    assert condition_number(convolution) == pytest.approx(float(values[0] / values[2]))
    flat = nn.Linear(3, 3)
    flat.weight.data = torch.ones(3, 3)
    assert 1e15 < condition_number(flat) <= 2.0**52
    flat.weight.data = torch.zeros(3, 3)
    assert condition_number(flat) == 1.0
    assert condition_number(nn.BatchNorm1d(3)) == 1.0
    flat.weight.data = torch.full((3, 3), math.nan)
    with pytest.raises(ValueError, match="expected finite weights in every layer, got NaN or infinity in Linear"):
        condition_number(flat)


@pytest.mark.parametrize("weights", ["conditioning", {"middle.0": 1.0, "middle.1": 1.0}])
def test_layers_that_work_in_place_change_nothing(weights) -> None:
    dense, moved = nn.Linear(64, 64), images_of(4, seed=7).requires_grad_()
    values = []
    for inplace in (False, True):
        value = Layerwise(weights).loss(batch_with(Chain(dense, nn.ReLU(inplace=inplace))))(moved, NONE)
        values.append((value.detach(), torch.autograd.grad(value.sum(), moved)[0]))
    torch.testing.assert_close(values[0], values[1])


def test_a_layer_that_runs_twice_counts_twice() -> None:
    vae, moved = Chain(nn.Linear(64, 64), twice=True), images_of(4, seed=7)
    batch = batch_with(vae)
    first = [vae.middle(x.flatten(1)) for x in (moved, batch.images)]
    second = [vae.middle(x) for x in first]
    expected = (mean_square(*first) + mean_square(*second)) * mean_square(*second)
    torch.testing.assert_close(Layerwise({"middle.0": 1.0}).loss(batch)(moved, NONE), expected)


@pytest.mark.parametrize("more", [True, False])
def test_other_numbers_of_runs_are_refused(more: bool) -> None:
    vae = Chain(nn.Linear(64, 64), twice=not more)
    loss = Layerwise().loss(batch_with(vae))
    vae.twice = more
    with pytest.raises(ValueError, match=r"expected as many runs of .*layer.* as for the clean images, got"):
        loss(images_of(4, seed=7), NONE)
    assert hooks(vae) == 0


def test_a_parametrised_layer_is_one_layer() -> None:
    vae = Chain(orthogonal(nn.Linear(64, 64)), nn.Tanh())
    assert list(leaves(vae)) == ["middle.0", "middle.1"]
    assert Layerwise().loss(batch_with(vae))(images_of(4, seed=7), NONE).shape == (4,)


def test_no_hook_stays_not_even_after_an_error() -> None:
    vae = Chain(nn.Linear(64, 64), nn.Tanh())
    batch = batch_with(vae)
    loss = Layerwise().loss(batch)
    assert hooks(vae) == 0
    loss(images_of(4, seed=7), NONE)
    assert hooks(vae) == 0
    vae.fails = True
    for run in (lambda: loss(images_of(4, seed=7), NONE), lambda: Layerwise().loss(batch)):
        with pytest.raises(RuntimeError, match="no memory"):
            run()
        assert hooks(vae) == 0


def test_a_users_own_hooks_stay() -> None:
    vae, seen = Chain(nn.Linear(64, 64)), []
    vae.middle[0].register_forward_hook(lambda layer, inputs, output: seen.append(len(output)))
    Layerwise().loss(batch_with(vae))(images_of(4, seed=7), NONE)
    assert seen == [4, 4, 4]
    assert hooks(vae) == 1


class Pair(nn.Module):
    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, rows


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


class Wide(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, 1)


def test_layers_without_one_row_per_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a tensor from layer 'middle.0', got tuple"):
        Layerwise().loss(batch_with(Chain(Pair(), First())))
    wide = Chain(Wide(), nn.Unflatten(0, (-1, 64)), nn.Flatten())
    with pytest.raises(ValueError, match=r"expected outputs \[4, ...\] of layer 'middle.0', got \(256, 1\)"):
        Layerwise().loss(batch_with(wide))
    assert Layerwise({"middle.2": 1.0}).loss(batch_with(wide))(images_of(4, seed=7), NONE).shape == (4,)


def test_layers_that_do_not_exist_or_never_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown layer 'decoder\.9', known: encoder, encoder\.0"):
        Layerwise({"decoder.9": 1.0}).check(SmallVAE(), images_of(1))
    vae = Chain(nn.Linear(64, 64))
    vae.spare = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"expected layers that run when images are reconstructed, got \['spare'\]"):
        Layerwise({"middle.0": 1.0, "spare": 1.0}).loss(batch_with(vae))
    assert Layerwise().loss(batch_with(vae))(images_of(4, seed=7), NONE).shape == (4,)
    with pytest.raises(ValueError, match="expected a model with layers that run, got Unlayered"):
        Layerwise().loss(batch_with(Unlayered(nn.Linear(64, 64))))


class Unlayered(Chain):
    def encode(self, images: Tensor) -> Posterior:
        return Posterior(images.flatten(1), torch.ones_like(images.flatten(1)))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({}, "at least one of `weights` > 0"),
        ({"a": 0.0}, "at least one of `weights` > 0"),
        ({"a": -1.0}, "finite `weights` >= 0"),
        ({"a": math.nan}, "finite `weights` >= 0"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=f"expected {said}, got"):
        Layerwise(weights)
