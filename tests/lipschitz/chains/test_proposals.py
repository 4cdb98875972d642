"""Proposals: many problems at once are as one by one, and one without multipliers does not spoil the others."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaerdict.lipschitz.chains.proposals import Proposal, propose_multipliers

SIZES = ((5, 4), (6, 5), (3, 6))
Problem = tuple[list[Tensor], list[Tensor], list[Tensor]]


def problems(count: int, stable: float = 0.3) -> Problem:
    """Draw problems that share all matrices but the last, with some neurons known to be on or off."""
    weights = [torch.randn(*size).double() for size in SIZES[:2]] + [torch.randn(count, *SIZES[2]).double()]
    middles = [torch.rand(count, size).double() for size in (5, 6)]
    radii = [torch.rand(count, size).double() * (torch.rand(count, size) >= stable) for size in (5, 6)]
    return weights, middles, radii


def solved(some: Problem, steps: int, rows: slice = slice(None)) -> Proposal:
    weights, middles, radii = some
    shared, last = weights[:2], weights[2]
    return propose_multipliers(
        [*shared, last[rows]], [one[rows] for one in middles], [one[rows] for one in radii], steps, 0.2
    )


def promised(weights: list[Tensor], middles: list[Tensor], radii: list[Tensor], multipliers: list[Tensor]) -> float:
    """Follow the recursion as it is written for one problem; infinite where `diag(s) > r V r` fails."""
    shape = weights[0] @ weights[0].T
    for weight, c, r, s in zip(weights[1:], middles, radii, multipliers, strict=True):
        on = r > 0
        narrow = shape[on] * r[on, None]
        held = torch.diag(s[on]) - narrow[:, on] * r[on]
        if on.any() and float(torch.linalg.eigvalsh(held)[0]) <= 0:
            return math.inf
        gain = narrow.T @ torch.linalg.solve(held, narrow)
        shape = weight @ (torch.diag(s) + c[:, None] * (shape + gain) * c) @ weight.T
    return float(torch.linalg.eigvalsh(shape)[-1])


@settings(max_examples=8, deadline=None)
@given(steps=st.sampled_from([0, 1, 15]), stable=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 2**31))
def test_the_promise_is_what_the_recursion_gives(steps: int, stable: float, seed: int) -> None:
    torch.manual_seed(seed)
    some = problems(3, stable)
    found = solved(some, steps)
    for index in range(3):
        own = [[one[index] for one in part] for part in (some[1], some[2], found.multipliers)]
        weights = [*some[0][:2], some[0][2][index]]
        assert promised(weights, *own) == pytest.approx(float(found.squared[index]), rel=1e-8)
        assert all(bool(((s > 0) == (r > 0)).all()) for s, r in zip(own[2], own[1], strict=True))
    assert bool((found.squared <= solved(some, 0).squared * (1 + 1e-12)).all())


def test_descent_helps() -> None:
    some = problems(4, 0.0)
    assert bool((solved(some, 30).squared < 0.98 * solved(some, 0).squared).all())


@pytest.mark.parametrize("steps", [0, 20])
def test_together_as_one_by_one(steps: int) -> None:
    some = problems(5)
    some[2][0][2] = 0.0  # a whole layer known, in one of the problems
    together = solved(some, steps)
    for index in range(5):
        alone = solved(some, steps, slice(index, index + 1))
        torch.testing.assert_close(alone.squared[0], together.squared[index], rtol=1e-9, atol=0)
        for ours, theirs in zip(alone.multipliers, together.multipliers, strict=True):
            torch.testing.assert_close(ours[0], theirs[index], rtol=1e-6, atol=1e-9)


def test_any_number_of_leading_axes() -> None:
    (first, second, last), middles, radii = problems(6)
    flat = propose_multipliers([first, second, last], middles, radii, 5)
    folded = [[one.unflatten(0, (2, 3)) for one in part] for part in (middles, radii)]
    nested = propose_multipliers([first, second, last.unflatten(0, (2, 3))], *folded, 5)
    torch.testing.assert_close(nested.squared.flatten(), flat.squared, rtol=1e-9, atol=0)


def test_nothing_to_choose_where_all_slopes_are_known() -> None:
    weights, middles, radii = problems(3)
    nothing = [torch.zeros_like(one) for one in radii]
    found = propose_multipliers(weights, middles, nothing, 10)
    maps = weights[2] @ torch.diag_embed(middles[1]) @ weights[1] @ torch.diag_embed(middles[0]) @ weights[0]
    torch.testing.assert_close(found.squared.sqrt(), torch.linalg.matrix_norm(maps, 2), rtol=1e-10, atol=0)
    assert all(bool((one == 0).all()) for one in found.multipliers)
    assert propose_multipliers(weights[:1], [], [], 10).squared.shape == ()


@pytest.mark.parametrize("what", ["NaN", "infinite", "huge", "constant"])
def test_one_problem_without_multipliers_does_not_spoil_the_others(what: str) -> None:
    some = problems(3)
    expected = solved(some, 10)
    middles, radii = some[1][1], some[2][1]
    if what == "constant":
        middles[1], radii[1] = 0.0, 0.0
    else:
        middles[1] = {"NaN": math.nan, "infinite": math.inf, "huge": 1e200}[what]
    found = solved(some, 10)
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(found.squared[kept], expected.squared[kept], rtol=1e-9, atol=0)
    for ours, theirs in zip(found.multipliers, expected.multipliers, strict=True):
        torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-6, atol=1e-9)
    assert float(found.squared[1]) == (0.0 if what == "constant" else math.inf)


def test_the_better_of_two_is_taken_of_each_problem() -> None:
    some = problems(2)
    closed = solved(some, 0)
    one, other = (torch.tensor(values).double() for values in ([1.0, math.inf], [2.0, 3.0]))
    low = Proposal(closed.multipliers, closed.shares, closed.gaps, one)
    high = Proposal([2 * s for s in closed.multipliers], closed.shares, closed.gaps, other)
    both = low.or_better(high)
    assert both.squared.tolist() == [1.0, 3.0]
    torch.testing.assert_close(both.multipliers[0], closed.multipliers[0] * torch.tensor([[1.0], [2.0]]).double())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_descent_goes_on_where_gradients_are_off(mode: type) -> None:
    some = problems(2)
    expected = solved(some, 10)
    with mode():
        copies = tuple([one.clone() for one in part] for part in some)
        found = solved((copies[0], copies[1], copies[2]), 10)
    torch.testing.assert_close(found.squared, expected.squared, rtol=1e-9, atol=0)
    assert not any(one.requires_grad for one in (*found.multipliers, *found.shares, *found.gaps, found.squared))
