"""Draws that may be wider than the posterior: chosen on others, the same in any batch, and never below the old way."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toys import LinearVAE, isotropic_vae
from vaerdict.certify import certify
from vaerdict.certify.methods import shift
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.monte_carlo import count_images
from vaerdict.certify.movement import measure_movement
from vaerdict.certify.statistics import clopper_pearson_lower
from vaerdict.certify.wide import widening_roots
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions
from vaerdict.results import Row


def small_vae(spread: str, latent: int = 3) -> GaussianVAE:
    torch.manual_seed(1)
    outputs = {"constant": latent, "log_variance": 2 * latent, "bounded": latent + 1}[spread]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))
    decoder = nn.Sequential(nn.Linear(latent, 6), nn.Sigmoid(), nn.Unflatten(1, (1, 1, 6)))
    std = None if spread == "log_variance" else 0.2
    facts = {"input_shape": (1, 1, 6), "latent_shape": (latent,), "spread": spread, "std": std}
    return wrap(encoder, decoder, **facts)  # type: ignore[arg-type]


def run(vae: Any, x: Tensor, r: float = 0.5, ids: list[int] | None = None, p: float = 0.5, **options: Any) -> list[Row]:
    name = "shift" if vae.std_map is None else "shift_moving"
    asked = CertifyOptions(**{"methods": (name,), "samples": 500, **options})
    return certify(vae, x, r=r, p=p, options=asked, sample_ids=ids, seed=3)


def held(rows: list[Row]) -> list[dict[str, Any]]:
    return [json.loads(row.constants) for row in rows]


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 1, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("spread", "r", "local"), [("constant", 0.5, True), ("bounded", 0.5, False)])
def test_an_images_draws_do_not_depend_on_its_batch(spread: str, r: float, local: bool) -> None:
    vae, x = small_vae(spread), images()
    together = run(vae, x, r, [5, 8, 13], local=local)
    (alone,) = run(vae, x[[1]], r, [8], local=local)
    one, other = held([alone, together[1]])
    assert (one["scale"], one["successes"]) == (other["scale"], other["successes"])
    assert alone.margin == pytest.approx(together[1].margin, rel=1e-4)
    assert alone.margin > 0  # type: ignore[operator]
    assert len({row.margin for row in together}) > 1


def test_widened_draws_are_those_of_the_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = isotropic_vae()
    seen: list[Tensor] = []

    def decode(latents: Tensor) -> Tensor:
        seen.append(latents.clone())
        return LinearVAE.decode(vae, latents)

    monkeypatch.setattr(vae, "decode", decode)
    shapes = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    roots = widening_roots(shapes @ shapes.mT, 2.5)
    ask: dict[str, Any] = {"r": 0.5, "anchored": False, "samples": 400, "seed": 0, "purpose": "test"}
    posterior = vae.encode(torch.rand(3, 1, 1, 12))
    one = type(posterior)(posterior.mean[1:2], posterior.std[1:2])
    together = count_images(vae, posterior, **ask, sample_ids=[4, 5, 6], roots=roots)
    alone = count_images(vae, one, **ask, sample_ids=[5], roots=roots[1:2])
    assert int(alone[0]) == int(together[1])
    moved, still = seen[0].unflatten(0, (3, 400)), seen[1].unflatten(0, (3, 400))
    assert torch.equal(moved[1], seen[2])
    assert torch.equal(still[1], seen[3])
    noise = (moved - posterior.mean[:, None]).double() / 0.1
    for image, root in zip(noise, roots, strict=True):
        covariance = image.T @ image / 400
        torch.testing.assert_close(covariance, root @ root.T, rtol=0.0, atol=6.5 * 5 / math.sqrt(400))
    plain = count_images(vae, posterior, **ask, sample_ids=[4, 5, 6])
    unit = widening_roots(shapes @ shapes.mT, 1.0)
    assert torch.equal(plain, count_images(vae, posterior, **ask, sample_ids=[4, 5, 6], roots=unit))
    assert bool((together < plain).all())


@pytest.mark.parametrize("spread", ["constant", "bounded"])
def test_no_draw_that_chooses_counts(monkeypatch: pytest.MonkeyPatch, spread: str) -> None:
    """What is counted in the end has a purpose of its own; what chose the width has others, one for each."""
    asked: list[tuple[str, int]] = []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        asked.append((options["purpose"], options["samples"]))
        return count_images(*arguments, **options)

    monkeypatch.setattr(shift, "count_images", counted)
    rows = run(small_vae(spread), images(2), samples=8000, local=False)
    *pilots, last = asked
    assert last == ("clean", 8000)
    assert [name for name, _ in pilots] == [f"pilot/{scale}" for scale in shift.SCALES]
    assert {samples for _, samples in pilots} == {200}
    assert {row.n_forward for row in rows} == {1 + 2 * (8000 + 8 * 200)}
    for one in held(rows):
        assert one["samples"] == 8000


def test_the_choice_is_of_the_pilots_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the last count is, the width stays; the confidence is that of one count at one width."""
    vae, x = small_vae("constant"), images()
    chosen = [one["scale"] for one in held(run(vae, x, local=False))]

    def counted(*arguments: Any, **options: Any) -> Tensor:
        counts = count_images(*arguments, **options)
        return counts * 0 + 400 if options["purpose"] == "clean" else counts

    monkeypatch.setattr(shift, "count_images", counted)
    found = held(run(vae, x, local=False))
    assert [one["scale"] for one in found] == chosen
    assert {one["successes"] for one in found} == {400}


@pytest.mark.parametrize("samples", [10, 40, 150])
def test_few_draws_are_enough_for_something(samples: int) -> None:
    rows = run(small_vae("constant"), images(), 1.0, samples=samples, local=False)
    assert all(row.status == "ok" and (row.margin or 0) >= 0 for row in rows)
    assert {row.n_forward for row in rows} == {1 + 2 * (samples + 8 * min(samples, 100))}
    assert all(one["successes"] <= samples for one in held(rows))


@pytest.mark.parametrize(
    ("spread", "options"),
    [
        ("constant", {}), ("constant", {"local": False}), ("constant", {"norm": "inf"}), ("bounded", {}),
        ("bounded", {"local": False, "norm": "inf"}), ("bounded", {"local": False, "reconstruction": "anchored"}),
        ("bounded", {"local": False, "p": 0.8}), ("constant", {"p": 0.8}), ("log_variance", {"r": 1.2}),
    ],
)  # fmt: skip
def test_rows_hold_their_own_inequality(spread: str, options: dict[str, Any]) -> None:
    rows = run(small_vae(spread), images(2), **{"r": 0.6, "samples": 2000, **options})
    for row, one in zip(rows, held(rows), strict=True):
        assert row.margin is not None
        assert row.margin > 0
        assert one["shift"] > 0
        assert one["alpha"] == pytest.approx(0.001)
        s = one["order"]
        assert (s > 1) or (spread == "log_variance" and one["scale"] == 1), "elsewhere wide draws reach farther"
        clean = clopper_pearson_lower(one["successes"], 2000, 0.999)
        assert s == 0 or (math.log1p(-clean) + one["divergence"]) * (s - 1) / s < math.log(1 - row.p)


def test_wide_draws_reach_farther_than_any_number_of_narrow_ones() -> None:
    """Without a miss, 2000 draws leave one half after a move of 2.7 deviations; here more is shown, and true."""
    vae = small_vae("constant")
    narrow = -float(torch.special.ndtri(torch.tensor(1 - 0.001 ** (1 / 2000), dtype=torch.float64)))
    assert narrow == pytest.approx(2.7, abs=0.1)
    rows = run(vae, images(), 1.0, samples=2000, local=False)
    assert min(one["shift"] for one in held(rows)) > 1.5 * narrow


def test_ratios_count_at_the_margin_and_not_farther_out() -> None:
    """The decoder is so flat that the largest radius is far beyond where a standard deviation may vanish."""
    vae = small_vae("bounded")
    x, options = images(2), CertifyOptions(samples=2000, methods=("shift_moving",), local=False)
    rows = certify(vae, x, r=5.0, options=options)
    for one in held(rows):
        assert one["order"] > 1
        assert 0 < min(one["ratio_low"]) < 1 < max(one["ratio_high"])
    with torch.no_grad():
        movement = measure_movement(ModelBounds(vae, x[:1], options), x, vae.encode(x), 25.0, "2")
    assert max(row.margin or 0 for row in rows) < 0.5 * float(movement.limit.min())
    assert float(movement.std_range(movement.limit)[0].min()) == 0


def test_with_too_many_latents_draws_are_those_of_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    purposes: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        purposes.append(options["purpose"])
        assert options["roots"] is None
        return count_images(*arguments, **options)

    monkeypatch.setattr(shift, "count_images", counted)
    for spread in ("constant", "bounded"):
        rows = run(small_vae(spread, 65), images(2), 1.5, local=False)
        assert {row.n_forward for row in rows} == {1 + 2 * 500}
        for row, one in zip(rows, held(rows), strict=True):
            assert (one["scale"], one["order"], one["divergence"]) == (1.0, 0.0, 0.0)
            assert row.margin is not None
            assert row.margin > 0
    assert set(purposes) == {"clean"}


@pytest.mark.parametrize("spread", ["constant", "bounded"])
def test_what_is_certified_holds_by_simulation(spread: str) -> None:
    """Posteriors of images moved to the margin, in the steepest direction and in others."""
    vae, x = small_vae(spread), images(2)
    rows = run(vae, x, 0.5, samples=2000, local=spread == "constant")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for image, row in zip(x, rows, strict=True):
            jacobian = torch.func.jacrev(lambda one: vae.encode(one[None]).mean[0])(image).flatten(1)
            steepest = torch.linalg.svd(jacobian).Vh[0]
            ways = torch.cat([steepest[None], -steepest[None], torch.randn(20, 6, generator=generator)])
            delta = row.margin * ways / ways.norm(dim=1, keepdim=True)  # type: ignore[operator]
            moved, still = vae.encode(image + delta.unflatten(1, (1, 1, 6))), vae.encode(image[None])
            e, f = torch.randn(2, 22, 4000, 3, generator=generator)
            ends = [
                vae.decode((one.mean[:, None] + one.std[:, None] * noise).flatten(0, 1))
                for one, noise in ((moved, e), (still, f))
            ]
            within = (ends[0] - ends[1]).flatten(1).norm(dim=1).unflatten(0, (22, 4000)) <= 0.5
            assert float(within.float().mean(1).min()) > 0.5 - 5 * math.sqrt(0.25 / 4000)
