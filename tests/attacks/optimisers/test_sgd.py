import pytest
import torch

from tests.attacks import searches
from vaerdict.attacks import TargetedLatent, attack
from vaerdict.attacks.optimisers.sgd import SGD, _climb, _Pace
from vaerdict.attacks.threat import Ball

QUICK = SGD(steps=40, learning_rate=0.15, direction="steepest", schedule="linear")


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_finds_the_singular_value(reconstruction: str) -> None:
    searches.assert_reaches_the_singular_value(QUICK, reconstruction)


@pytest.mark.parametrize(
    "options", [SGD(steps=60, learning_rate=0.05), SGD(steps=60, learning_rate=1.0, schedule="divided")]
)
def test_raw_gradients_find_the_singular_value(options: SGD) -> None:
    searches.assert_reaches_the_singular_value(options, "mean", 0.99)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_reaches_the_best_known_damage(norm: str) -> None:
    options = SGD(steps=60, restarts=3, learning_rate=0.2, direction="steepest", schedule="linear")
    searches.assert_reaches_the_best_known(options, norm, 0.99)


@pytest.mark.parametrize("direction", ["raw", "steepest"])
@pytest.mark.parametrize("norm", ["0", "1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str, direction: str) -> None:
    options = SGD(steps=20, learning_rate=1.0, direction=direction)
    if norm != "0":
        searches.assert_stays_inside(options, norm)
        return
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(3), 2.0, norm)
    delta, sane = options.search(batch, searches.DAMAGE, ball, "test")
    assert bool(sane.all())
    assert (delta.flatten(1) != 0).sum(1).tolist() == [2, 2, 2]
    assert float((ball.center + delta).abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_not_finite_stays_its_own(schedule: str) -> None:
    options = SGD(steps=60, restarts=2, learning_rate=0.1, direction="steepest", schedule=schedule)
    searches.assert_not_finite_stays_its_own(options)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(SGD(steps=20, learning_rate=0.05), reconstruction)


@pytest.mark.parametrize("schedule", ["constant", "linear", "divided", "plateau"])
def test_never_waits_for_the_device(schedule: str) -> None:
    batch, ball = searches.case(searches.linear_vae()[0].requires_grad_(False), searches.images_of(3), 0.3)
    options = SGD(steps=20, schedule=schedule)
    searches.assert_never_waits(lambda: options.search(batch, searches.DAMAGE, ball, "test"))


def test_zero_start_never_leaves_zero() -> None:
    searches.assert_zero_start_never_leaves(QUICK)


def test_penalised_form_ends_where_its_gradient_vanishes() -> None:
    # Least |M delta - t|^2 + C |delta|^2: a ridge regression.
    vae, _ = searches.linear_vae()
    images = searches.images_of(3)
    batch, ball = searches.case(vae, images, 50.0)
    options = SGD(steps=150, learning_rate=0.05, penalty=0.7, start=0.0, schedule="constant")
    delta = options.search(batch, TargetedLatent(images.flip(0), "l2"), ball, "test")[0].flatten(1).double()
    matrix = vae.mean_map[1].weight.detach().double()
    goal = (images.flip(0) - images).flatten(1).double() @ matrix.T
    exact = torch.linalg.solve(matrix.T @ matrix + 0.7 * torch.eye(12, dtype=torch.float64), matrix.T @ goal.T).T
    torch.testing.assert_close(delta, exact, rtol=0.01, atol=2e-3)


def visited(options: SGD, slope: list[float]) -> torch.Tensor:
    """Give the places that a climb of a linear loss in one dimension looks at, one row per sample."""
    ball = Ball(norm="2", radius=torch.full((2,), 1e9), box=(-1e9, 1e9), center=torch.zeros(2, 1))
    places = []

    def loss(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        places.append(images.detach().flatten())
        return images.flatten() * torch.tensor(slope)

    _climb(loss, ball, torch.zeros(2, 1), [torch.zeros(2, 0, 1)] * options.steps, options, random=False)
    return torch.stack(places, 1)


def test_steps_are_those_of_direction_and_schedule() -> None:
    raw = visited(SGD(steps=4, schedule="constant", learning_rate=0.5), [2.0, -4.0])
    torch.testing.assert_close(raw, torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, -2.0, -4.0, -6.0]]))
    steep = visited(SGD(steps=4, schedule="constant", learning_rate=0.5, direction="steepest"), [2.0, -4.0])
    torch.testing.assert_close(steep, torch.tensor([[0.0, 0.5, 1.0, 1.5], [0.0, -0.5, -1.0, -1.5]]))
    divided = visited(SGD(steps=5, schedule="divided", learning_rate=1.0), [1.0, 1.0])
    torch.testing.assert_close(divided[0], torch.tensor([0.0, 1.0, 2.0, 2.5, 3.0]))
    linear = visited(SGD(steps=3, schedule="linear", learning_rate=1.0, last=0.5), [1.0, 1.0])
    torch.testing.assert_close(linear[0], torch.tensor([0.0, 1.0, 1.75]))


def test_a_plateau_halves_the_step_of_its_own_sample_only() -> None:
    # The second sample's loss is flat: its step is halved whenever three looks in a row were no better.
    pace = _Pace(torch.zeros(2), SGD(learning_rate=1.0, patience=2))
    rates = []
    for k in range(8):
        pace.look(torch.tensor([float(k), 0.0]), torch.tensor([True, True]))
        rates.append(pace.rate.tolist())
    assert [rate for rate, _ in rates] == [1.0] * 8
    assert [rate for _, rate in rates] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_rows_name_the_optimiser() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    rows = attack(vae, images, radius=0.5, r=1.0, reconstruction="mean", options=SGD(steps=4))
    assert [row.method for row in rows] == ["sgd-damage"] * 2


@pytest.mark.parametrize("steps", [4, 230])
def test_each_step_costs_one_gradient(steps: int) -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    batch.vae.cost.clear()
    SGD(steps=steps).search(batch, searches.DAMAGE, ball, "test")
    # Encoder and decoder of two images; the end is compared once more, without a gradient.
    assert (batch.vae.forward, batch.vae.backward) == ((steps + 1) * 2 * 2, steps * 2 * 2)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"patience": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"last": 0.0},
     {"penalty": -1.0}, {"start": 1.5}],
)  # fmt: skip
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        SGD(**wrong)
