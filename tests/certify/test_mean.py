"""Certificates of means' reconstructions: local slopes of the decoder allow more, and no search goes beyond."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.checker.runs import write_unit
from tests.lipschitz.chains.attacked import dense_net
from vaerdict.certify import certify
from vaerdict.certify.export import export_model
from vaerdict.certify.methods import near
from vaerdict.checker import check_run
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions
from vaerdict.results import Row

SHAPE = (1, 1, 12)
PLAIN = (1.3, 1.3, 1.3)


def plain_vae(
    seed: int = 0, activation: str = "relu", std: float = 0.1, scales: tuple[float, ...] = PLAIN
) -> GaussianVAE:
    """A decoder as it comes out of training without constraints: far less steep around most means than anywhere."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Flatten(), *dense_net((12, 16, 3), activation).float())
    decoder = nn.Sequential(
        *dense_net((3, 24, 24, 12), activation, scales).float(), nn.Sigmoid(), nn.Unflatten(1, SHAPE)
    )
    return wrap(
        encoder, decoder, input_shape=SHAPE, latent_shape=(3,), spread="constant", std=std, input_range=(-50.0, 50.0)
    ).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def certified(vae: GaussianVAE, x: Tensor, r: float = 0.4, **options: Any) -> list[Row]:
    chosen = CertifyOptions(methods=("deterministic",), reconstruction="mean", **options)
    return certify(vae, x, r=r, options=chosen)


@cache
def plain_rows() -> tuple[GaussianVAE, list[Row]]:
    vae = plain_vae()
    return vae, certified(vae, images())


def constants(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.constants))


def largest_change(vae: GaussianVAE, x: Tensor, radius: Tensor, norm: str = "2") -> Tensor:
    """Climb from 40 random starts per image, at the radius and inside."""
    clean = vae.decode(vae.encode(x).mean).detach()[:, None]
    radius = radius.reshape(-1, 1, 1, 1, 1).float() * (1 - 1e-5)

    def inside(delta: Tensor) -> Tensor:
        if norm == "inf":
            return delta.clamp(-radius, radius)
        return delta * (radius / delta.flatten(2).norm(dim=2)[..., None, None, None].clamp(min=1e-30)).clamp(max=1.0)

    delta, best = inside(radius * torch.randn(len(x), 40, *SHAPE)), torch.zeros(len(x))
    for step in range(25):
        delta = delta.detach().requires_grad_()
        moved = vae.decode(vae.encode((x[:, None] + delta).flatten(0, 1)).mean).unflatten(0, delta.shape[:2])
        change = (moved - clean).flatten(2).norm(dim=2)
        best = torch.maximum(best, change.detach().amax(1))
        (slope,) = torch.autograd.grad(change.sum(), delta)
        unit = (
            slope.sign() if norm == "inf" else slope / slope.flatten(2).norm(dim=2)[..., None, None, None].clamp(1e-12)
        )
        delta = inside(delta.detach() + radius * (1 - step / 25) * unit)
    return best


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(["relu", "tanh", "shallow", "gelu"]),
    r=st.sampled_from([0.05, 0.4, 1.0]),
    norm=st.sampled_from(["2", "inf"]),
)
def test_no_search_finds_a_larger_change(seed: int, activation: str, r: float, norm: Any) -> None:
    vae, x = plain_vae(seed, activation), images(2)
    rows = certified(vae, x, r, norm=norm)
    margins = torch.tensor([row.margin for row in rows])
    assert bool((margins > 0).all())
    assert bool((largest_change(vae, x, margins, norm) <= r).all())


def test_the_search_finds_changes_beyond_a_few_margins() -> None:
    """Else the test above could not fail."""
    vae, rows = plain_rows()
    x, margins = images(), torch.tensor([row.margin for row in rows])
    assert bool((largest_change(vae, x, 5 * margins) > 0.4).all())


def test_a_ball_of_latents_allows_more_than_the_global_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, rows = plain_rows()
    monkeypatch.setattr(near, "_is_local", lambda model: False)
    everywhere = certified(vae, images())
    for row, other in zip(rows, everywhere, strict=True):
        told, before = constants(row), constants(other)
        assert (told["a_by"], before["a_by"], before["ball"]) == ("local", "global", None)
        assert told["a"] < before["a"]
        assert told["shift"] <= told["ball"]
        assert told["a"] * told["shift"] <= 0.4 - 2 * told["decoder_rounding"]
        assert row.strength == "proved"
    gains = torch.tensor([row.margin / other.margin for row, other in zip(rows, everywhere, strict=True)])
    assert float(gains.median()) > 1.5
    assert float(gains.min()) >= 1.0


def test_without_local_bounds_the_global_constant_stands() -> None:
    for row in certified(plain_vae(), images(), local=False):
        told = constants(row)
        assert (told["a_by"], told["ball"], told["shift_by"]) == ("global", None, "global")
        room = 0.4 - 2 * told["decoder_rounding"]
        assert row.margin == pytest.approx((room / told["a"] - told["mean_rounding"]) / told["b"], rel=1e-6)


def test_a_linear_decoder_keeps_its_constant() -> None:
    told = [constants(row) for row in certified(linear_vae(), images())]
    assert {one["a_by"] for one in told} == {"global"}


def linear_vae() -> GaussianVAE:
    encoder, decoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
        nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, SHAPE)),
    )
    return wrap(encoder, decoder, input_shape=SHAPE, latent_shape=(3,), spread="constant", std=0.1).eval()


def test_decoders_that_are_wide_or_not_in_a_row_keep_their_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "WIDEST", 23)
    assert {constants(row)["a_by"] for row in certified(plain_vae(), images())} == {"global"}

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
            self.last = nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, SHAPE))

        def forward(self, z: Tensor) -> Tensor:
            return self.last(z + self.own(z))

    monkeypatch.undo()
    vae = plain_vae()
    branching = wrap(vae.encoder, Branching(), input_shape=SHAPE, latent_shape=(3,), spread="constant", std=0.1).eval()
    assert {constants(row)["a_by"] for row in certified(branching, images())} == {"global"}


def test_an_image_s_margin_does_not_depend_on_its_batch() -> None:
    vae, rows = plain_rows()
    (alone,) = certified(vae, images()[1:2])
    assert alone.margin == pytest.approx(rows[1].margin, rel=1e-3)


def test_the_spread_that_nothing_is_drawn_from_does_not_matter() -> None:
    """Movement is first bounded to where the global constant ends, or to a few standard deviations."""
    (row,) = certified(plain_vae(std=1e-4), images(1))
    assert row.margin == pytest.approx(plain_rows()[1][0].margin, rel=0.1)


def test_no_latent_is_farther_than_the_rounding_is_bounded_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that is flat around the means would allow more."""
    monkeypatch.setattr(near, "_FARTHEST", 3.0)
    vae = plain_vae()
    before = constants(certified(vae, images(1), local=False)[0])["a"]
    for row in certified(vae, images()):
        told = constants(row)
        assert told["a_by"] == "local"
        assert told["shift"] <= told["ball"] <= 3.0 * 0.4 / before * (1 + 1e-12)


# --- checked again ---


def written(run: Path, rows: list[Row], vae: GaussianVAE) -> list[Row]:
    export_model(run, vae)
    write_unit(run, rows)
    return rows


def test_the_checker_takes_the_slope_as_stated_and_says_so(tmp_path: Path) -> None:
    vae, rows = plain_rows()
    written(tmp_path, rows, vae)
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert "the decoder's slope on a ball around the mean" in str(report)


@pytest.mark.parametrize("change", [{"a": 1.5}, {"ball": 0.5}, {"shift": 1 + 1e-6}, {"a_by": "luck"}, {"ball": None}])
def test_the_checker_refuses_a_shift_that_the_slope_does_not_allow(tmp_path: Path, change: dict[str, Any]) -> None:
    vae, rows = plain_rows()
    ((name, factor),) = change.items()
    told = constants(rows[0])
    told[name] = told[name] * factor if isinstance(factor, float) else factor
    forged = [replace(rows[0], constants=json.dumps(told))]
    written(tmp_path, forged, vae)
    assert len(check_run(tmp_path).failed) == 1


def test_other_certificates_may_not_state_a_local_slope(tmp_path: Path) -> None:
    vae = plain_vae()
    rows = certify(vae, images(1), r=3.0, options=CertifyOptions(methods=("reflection",), reconstruction="anchored"))
    assert rows[0].margin
    forged = [replace(row, constants=json.dumps({**constants(row), "a_by": "local", "ball": 1.0})) for row in rows]
    written(tmp_path, forged, vae)
    assert len(check_run(tmp_path).failed) == 1
