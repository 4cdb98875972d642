import pytest
import torch

from tests.attacks import searches
from tests.toys import LinearVAE
from vaerdict.attacks import attack
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.singular import Singular, singular_direction
from vaerdict.attacks.threat import Ball


def test_direction_of_a_linear_encoder_is_its_singular_vector() -> None:
    vae, _ = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(5), 0.3)
    delta, sane = Singular().search(batch, searches.DAMAGE, ball, "test")
    top = torch.linalg.svd(vae.mean_map[1].weight.detach()).Vh[0]
    assert bool(sane.all())
    assert bool(((delta.flatten(1) @ top).abs() > 0.3 * (1 - 1e-5)).all())


def test_direction_of_a_bent_encoder_is_its_jacobians() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(4), 0.1)
    start = ball.random_start(torch.randn(4, 1, 1, 12))
    found, _ = singular_direction(lambda images: batch.vae.encode(images).mean, ball, start, 60)
    for image, direction in zip(batch.images, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: batch.vae.encode(x[None]).mean[0], image).flatten(1)
        top = torch.linalg.svd(jacobian).Vh[0]
        assert abs(float(direction.flatten() @ top)) > 1 - 1e-4


def test_one_shot_reaches_the_singular_value_of_the_reconstruction() -> None:
    searches.assert_reaches_the_singular_value(Singular(of="reconstruction"), "mean")
    searches.assert_reaches_the_singular_value(Singular(of="reconstruction"), "sampled")


def test_the_better_sign_is_taken() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(6), 0.5)
    delta = Singular().search(batch, searches.DAMAGE, ball, "test")[0]
    assert bool((searches.damage(batch, ball, delta) >= searches.damage(batch, ball, -delta)).all())


def test_linf_direction_of_one_output_is_the_sign_of_its_weights() -> None:
    weights = torch.tensor([[0.5, -1.0, 2.0, 0.3, -0.25, 1.5]])
    vae = LinearVAE(weights, torch.ones(6, 1), 0.1)
    batch, ball = searches.case(vae, torch.zeros(2, 1, 1, 6), 0.2, "inf")
    delta = Singular().search(batch, searches.DAMAGE, ball, "test")[0].flatten(1)
    torch.testing.assert_close(delta * delta[:, :1].sign(), 0.2 * weights.sign().expand(2, 6))


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_iterations_never_lose_movement(norm: str) -> None:
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(7, 9, generator=generator)
    ball = Ball(norm=norm, radius=torch.ones(8), box=(-9.0, 9.0), center=torch.zeros(8, 9))
    start = torch.randn(8, 9, generator=generator)
    moves = [
        (singular_direction(lambda x: x @ matrix.T, ball, start, count)[0] @ matrix.T).norm(dim=1)
        for count in (1, 3, 9)
    ]
    assert bool((moves[1] >= moves[0] * (1 - 1e-5)).all())
    assert bool((moves[2] >= moves[1] * (1 - 1e-5)).all())


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str) -> None:
    searches.assert_stays_inside(Singular(), norm)


def test_not_finite_stays_its_own() -> None:
    # The direction goes straight through the fence; of its two signs one may be finite.
    searches.assert_not_finite_stays_its_own(Singular(), least=0.0)


def test_draws_do_not_depend_on_the_batch() -> None:
    searches.assert_same_draws_in_any_batch(Singular(), "sampled")


def test_never_waits_for_the_device() -> None:
    batch, ball = searches.case(searches.linear_vae()[0].requires_grad_(False), searches.images_of(3), 0.3)
    searches.assert_never_waits(lambda: Singular().search(batch, searches.DAMAGE, ball, "test"))


def test_row_counts_its_products() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    (row, _) = attack(vae, images, radius=0.5, r=1.0, reconstruction="mean", options=Singular(iterations=4))
    # Clean image, judge and its 8-bit copy, both maps; an encoding per iteration; both signs and the end are compared.
    assert (row.method, row.n_forward, row.n_backward) == ("singular-damage", 2 + 4 + 4 + 3 * 2, 4)


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"restarts": 0}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        Singular(**wrong)


def test_is_an_optimiser() -> None:
    assert isinstance(Singular(), Optimiser)
    assert not isinstance(object(), Optimiser)
