import pytest
import torch

from tests.attacks import searches
from vaerdict.attacks import TargetedLatent, attack
from vaerdict.attacks.optimisers.constrained import bounds, penalised, rescaled
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.threat import Ball, size

QUICK = LBFGS(evaluations=60, restarts=1, samples=2)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_finds_the_singular_value(reconstruction: str) -> None:
    searches.assert_reaches_the_singular_value(LBFGS(evaluations=60, restarts=1), reconstruction, 0.99)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_reaches_the_best_known_damage(norm: str) -> None:
    searches.assert_reaches_the_best_known(LBFGS(restarts=5), norm)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str) -> None:
    searches.assert_stays_inside(QUICK, norm)


def test_not_finite_stays_its_own() -> None:
    searches.assert_not_finite_stays_its_own(LBFGS(evaluations=60, restarts=2))


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(QUICK, reconstruction)


def test_zero_start_never_leaves_zero() -> None:
    searches.assert_zero_start_never_leaves(QUICK)


def test_each_image_has_its_own_target_and_the_penalised_form_is_solved() -> None:
    # Least |M delta - t|^2 + C |delta|^2: a ridge regression.
    vae, _ = searches.linear_vae()
    images = searches.images_of(3)
    batch, ball = searches.case(vae, images, 50.0)
    options = LBFGS(restarts=1, penalty=0.7, start=1e-8)
    delta = options.search(batch, TargetedLatent(images.roll(1, 0), "l2"), ball, "test")[0].flatten(1).double()
    matrix = vae.mean_map[1].weight.detach().double()
    goal = (images.roll(1, 0) - images).flatten(1).double() @ matrix.T
    exact = torch.linalg.solve(matrix.T @ matrix + 0.7 * torch.eye(12, dtype=torch.float64), matrix.T @ goal.T).T
    torch.testing.assert_close(delta, exact, rtol=0.01, atol=2e-3)
    rows = attack(vae, images, radius=0.2, r=1.0, reconstruction="mean", options=QUICK)
    assert [row.method for row in rows] == ["lbfgs-damage"] * 3


def test_bounds_are_those_of_box_and_cube() -> None:
    center = torch.tensor([[0.0, 0.9, -1.0]])
    ball = Ball(norm="inf", radius=torch.tensor([0.5]), box=(-1.0, 1.0), center=center)
    low, high = bounds(ball)
    torch.testing.assert_close(low, torch.tensor([[-0.5, -0.5, 0.0]]))
    torch.testing.assert_close(high, torch.tensor([[0.5, 0.1, 0.5]]))
    low, high = bounds(Ball(norm="2", radius=torch.tensor([0.5]), box=(-1.0, 1.0), center=center))
    torch.testing.assert_close(high - low, torch.full((1, 3), 2.0))


@pytest.mark.parametrize("norm", ["1", "2"])
def test_rescaling_shortens_only_and_its_gradient_is_tangential(norm: str) -> None:
    ball = Ball(norm=norm, radius=torch.ones(3), box=(-9.0, 9.0), center=torch.zeros(3, 4))
    delta = torch.stack([torch.zeros(4), torch.full((4,), 0.1), torch.tensor([1.0, -2.0, 3.0, 0.5])]).requires_grad_()
    short = rescaled(ball, delta)
    assert torch.equal(short[:2], delta[:2])
    torch.testing.assert_close(size(short, norm)[2], torch.tensor(1.0))
    (gradient,) = torch.autograd.grad(short.sin().sum(), delta)
    assert bool(gradient.isfinite().all())
    assert abs(float((gradient[2] * delta[2]).sum().detach())) < 1e-5


def test_penalty_is_a_squared_length() -> None:
    ball = Ball(norm="2", radius=torch.ones(1), box=(-9.0, 9.0), center=torch.ones(1, 2))
    loss = penalised(lambda images, noise: images.sum(1), ball, 0.5)
    assert loss(torch.tensor([[4.0, 5.0]]), torch.empty(1, 0, 1)).tolist() == [9.0 - 0.5 * 25]


def test_a_count_of_pixels_is_refused() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(1), 3.0, "0")
    with pytest.raises(ValueError, match="expected a `norm` other than a count for L-BFGS-B, got '0'"):
        QUICK.search(batch, searches.DAMAGE, ball, "test")


@pytest.mark.parametrize(
    "wrong", [{"evaluations": 0}, {"memory": 0}, {"factr": -1.0}, {"penalty": -1.0}, {"start": 2.0}]
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        LBFGS(**wrong)
