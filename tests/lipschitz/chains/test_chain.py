"""Chains compute what the layers do; slopes hold every chord; errors hold the rounding."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.chains.chain import Chain, dense_chain
from vaerdict.lipschitz.chains.slopes import SLOPE_RULES, slope_interval
from vaerdict.lipschitz.graph.nodes import NoSoundBound
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import GroupSort, MaxMin, Scale, Select


def evaluate(chain: Chain, x: Tensor) -> Tensor:
    values = x.flatten(1).double()
    for index, one in enumerate(chain.maps):
        values = values @ one.weight.T + one.bias
        if index < len(chain.activations):
            values = chain.activations[index].apply(values)
    return values


def normalisation(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    for values in (layer.running_mean, layer.weight.data, layer.bias.data):
        values.normal_()
    layer.running_var.uniform_(0.1, 3.0)
    return layer


NETS = {
    "dense": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 3)), (3, 4)),
    "conv": (
        nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), normalisation(4), nn.SiLU(), nn.ConvTranspose2d(4, 2, 4, 2, 1)),
        (2, 6, 6),
    ),
    "circular": (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.AvgPool2d(2)), (1, 4, 4)),
    "reflect": (nn.Conv1d(1, 2, 5, padding=2, padding_mode="reflect"), (1, 3)),
    "pairs": (nn.Sequential(nn.Linear(3, 6), MaxMin(), nn.Linear(6, 2), GroupSort(2), Scale(-2.5)), (3,)),
    "channels": (nn.Sequential(nn.Conv2d(1, 4, 3), MaxMin(1), nn.PixelShuffle(2), nn.GELU()), (1, 4, 4)),
    "moves": (nn.Sequential(nn.Upsample(scale_factor=2), Select(0, 1), nn.Flatten(), nn.Tanh()), (2, 2, 2)),
    "activation first": (nn.Sequential(nn.ELU(), nn.Linear(3, 2), nn.Sigmoid()), (3,)),
    "tokens": (nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2)), (5, 3)),
    "nothing": (nn.Identity(), (3,)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_chain_computes_what_the_layers_do(name: str) -> None:
    net, shape = NETS[name]
    net = net.eval().double()
    x = torch.randn(7, *shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(dense_chain(trace(net, shape)), x), net(x).flatten(1), rtol=0, atol=1e-12)


def test_linear_layers_merge_into_one() -> None:
    chain = dense_chain(trace(NETS["dense"][0].eval(), (3, 4)))
    assert [tuple(one.weight.shape) for one in chain.maps] == [(5, 12), (3, 5)]


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), (4,), r"`1` \(Softmax\)"),
        (nn.Sequential(nn.Conv2d(1, 65, 3, padding=1)), (1, 8, 8), "4096"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), None, "input_shape"),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU("tanh")), (2,), "exact GELU"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softplus()), (2,), "threshold"),
    ],
)
def test_what_cannot_be_written_out_is_refused(net: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        dense_chain(trace(net.eval(), shape))


def test_weights_that_are_not_finite_are_refused() -> None:
    net = nn.Linear(2, 2)
    net.weight.data[0, 0] = math.nan
    with pytest.raises(NoSoundBound, match="finite"):
        dense_chain(trace(net))


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.3),
    nn.LeakyReLU(-0.5),
    nn.LeakyReLU(2.0),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Softplus(beta=3, threshold=40),
    nn.ELU(),
    nn.ELU(2.5),
    nn.SiLU(),
    nn.GELU(),
]


def test_every_slope_rule_is_tested() -> None:
    assert {type(layer) for layer in ACTIVATIONS} == set(SLOPE_RULES)


ends = st.one_of(st.sampled_from([0.0, math.sqrt(2), -math.sqrt(2), 2.39935728, -2.39935728]), st.floats(-9, 9))


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
@settings(max_examples=40, deadline=None)
@given(one=ends, other=ends)
def test_no_chord_leaves_the_slope_interval(layer: nn.Module, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    least, greatest = (float(end) for end in slope_interval(layer, *torch.tensor([[low], [high]])))
    assert least <= greatest
    grid = torch.linspace(low, high, 400, dtype=torch.float64)
    step = grid[1:] - grid[:-1]
    if step.min() < 1e-6:
        return
    chords = (layer(grid)[1:] - layer(grid)[:-1]) / step
    assert least - 1e-8 <= float(chords.min())
    assert float(chords.max()) <= greatest + 1e-8
    curvature = 3.0 * float(step.max()) * 3  # of beta = 3
    assert float(chords.max()) >= greatest - curvature or 0 < -low < step.max() or 0 < high < step.max()
    globally = [float(end) for end in slope_interval(layer, *torch.tensor([[-math.inf], [math.inf]]))]
    assert globally[0] <= least + 1e-12
    assert greatest <= globally[1] + 1e-12


def test_slopes_at_a_tie() -> None:
    low, high = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    least, greatest = slope_interval(nn.ReLU(), low, high)
    assert least.tolist()[:2] == [1.0, 0.0]
    assert greatest.tolist()[:2] == [1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 1e-160, 1e100]), rows=st.integers(1, 4))
def test_composition_is_within_its_error_of_the_exact_product(seed: int, scale: float, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        spread = 10.0 ** torch.randint(-8, 9, shape, generator=generator).double()
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * spread * scale

    first, second = Affine(values(3, 2), values(3)), Affine(values(rows, 3), values(rows))
    both = first.then(second)
    exact_a, exact_b = ([[Fraction(x) for x in row] for row in m.tolist()] for m in (first.weight, second.weight))
    product = [
        [sum(b * a for b, a in zip(row, column, strict=True)) for column in zip(*exact_a, strict=True)]
        for row in exact_b
    ]
    off = sum(
        (Fraction(x) - y) ** 2
        for row, exact in zip(both.weight.tolist(), product, strict=True)
        for x, y in zip(row, exact, strict=True)
    )
    assert off <= Fraction(both.weight_error) ** 2
    bias = [
        sum(w * Fraction(x) for w, x in zip(row, first.bias.tolist(), strict=True)) + Fraction(b)
        for row, b in zip(exact_b, second.bias.tolist(), strict=True)
    ]
    assert (
        sum((Fraction(x) - y) ** 2 for x, y in zip(both.bias.tolist(), bias, strict=True))
        <= Fraction(both.bias_error) ** 2
    )


def test_products_that_overflow_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64))
    net[0].weight.data.zero_()
    net[1].weight.data.fill_(1.7e308)
    with pytest.raises(NoSoundBound, match="finite"):
        dense_chain(trace(net))


def test_a_division_is_held_with_its_rounding() -> None:
    assert dense_chain(trace(Scale(1 / 3.0), (2,))).maps[0].weight_error > 0
