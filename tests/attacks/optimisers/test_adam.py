import pytest
import torch

from tests.attacks import searches
from vaerdict.attacks import TargetedLatent, attack
from vaerdict.attacks.optimisers.adam import Adam

QUICK = Adam(steps=80, learning_rate=0.01)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_finds_the_singular_value(reconstruction: str) -> None:
    searches.assert_reaches_the_singular_value(QUICK, reconstruction)


def test_projected_steps_end_where_they_are_parallel_to_the_perturbation() -> None:
    # Adam's step has about the same length in each pixel, so the projected iterate turns to the gradient's signs.
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(4), 0.3)
    delta = Adam(steps=150, restarts=1, through=False).search(batch, searches.DAMAGE, ball, "test")[0]
    found = searches.damage(batch, ball, delta) / (0.3 * 6.0)
    assert bool((found < 0.99).all())
    assert bool((found > 0.6).all())


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_reaches_the_best_known_damage(norm: str) -> None:
    searches.assert_reaches_the_best_known(Adam(steps=80, restarts=2), norm)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str, through: bool) -> None:
    searches.assert_stays_inside(Adam(steps=40, through=through), norm)


def test_not_finite_stays_its_own() -> None:
    searches.assert_not_finite_stays_its_own(Adam(steps=60, restarts=2))


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(Adam(steps=20), reconstruction)


def test_never_waits_for_the_device() -> None:
    batch, ball = searches.case(searches.linear_vae()[0].requires_grad_(False), searches.images_of(3), 0.3)
    searches.assert_never_waits(lambda: Adam(steps=20).search(batch, searches.DAMAGE, ball, "test"))


def test_zero_start_never_leaves_zero() -> None:
    searches.assert_zero_start_never_leaves(QUICK)


def test_penalised_form_ends_where_its_gradient_vanishes() -> None:
    # Least |M delta - t|^2 + C |delta|^2: a ridge regression.
    vae, _ = searches.linear_vae()
    images = searches.images_of(3)
    weight = 0.7
    batch, ball = searches.case(vae, images, 50.0)
    options = Adam(steps=200, learning_rate=0.02, penalty=weight, start=0.0)
    delta = options.search(batch, TargetedLatent(images.flip(0), "l2"), ball, "test")[0].flatten(1).double()
    matrix = vae.mean_map[1].weight.detach().double()
    goal = (images.flip(0) - images).flatten(1).double() @ matrix.T
    exact = torch.linalg.solve(matrix.T @ matrix + weight * torch.eye(12, dtype=torch.float64), matrix.T @ goal.T).T
    torch.testing.assert_close(delta, exact, rtol=0.01, atol=2e-3)


def test_rows_name_the_optimiser() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    rows = attack(vae, images, radius=0.5, r=1.0, reconstruction="mean", options=Adam(steps=4))
    # Clean image, judge and its 8-bit copy; four steps and the end's comparison.
    assert [(row.method, row.n_forward, row.n_backward) for row in rows] == [("adam-damage", 2 + 4 + 2 * 5, 2 * 4)] * 2


def test_more_steps_than_a_block_of_noise_are_all_taken() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3, reconstruction="sampled")
    batch.vae.cost.clear()
    Adam(steps=230).search(batch, searches.DAMAGE, ball, "test")
    # Each step differentiates one encoding and one decoding of the two images.
    assert batch.vae.backward == 230 * 2 * 2


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"penalty": -1.0}, {"penalty": float("inf")}, {"start": 1.5}]
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        Adam(**wrong)
