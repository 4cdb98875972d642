"""A design's promise is what the certificate then finds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.certify import design_frontier, margin_barrett, margin_isotropic
from vaerdict.certify.design import SPARE, Design, by_isotropic, choose_design
from vaerdict.certify.promise import Promise, read_promise
from vaerdict.options import ModelOptions


@settings(max_examples=30, deadline=None)
@given(
    latent=st.integers(2, 32),
    r=st.floats(1, 10),
    margin=st.floats(0.05, 2),
    b=st.floats(0.2, 5),
    sigma=st.floats(0.01, 0.3),
    p=st.floats(0.5, 0.9),
)
def test_the_promised_margin_is_certified_and_not_given_away(
    latent: int, r: float, margin: float, b: float, sigma: float, p: float
) -> None:
    [design] = design_frontier(latent=latent, r=r, margin=margin, b=b, sigmas=[sigma], p=p)
    assert design.a_isotropic >= design.a_barrett * (1 - 1e-6)
    ask = {"latent": latent, "sigma": sigma, "b": b, "r": r, "p": p}
    for a, solve in ((design.a_isotropic, margin_isotropic), (design.a_barrett, margin_barrett)):
        assert solve(a=a * (1 + 0.99 * SPARE), **ask) >= margin * (1 - 1e-9)
        assert solve(a=a * (1 + 1.1 * SPARE), **ask) <= margin


def test_scaling_the_latent_space_changes_nothing() -> None:
    ask = {"latent": 10, "r": 8.0, "margin": 0.3}
    [one] = design_frontier(b=5.0, sigmas=[0.1], **ask)
    [two] = design_frontier(b=10.0, sigmas=[0.2], **ask)
    assert one.a_isotropic == pytest.approx(2 * two.a_isotropic, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    latent=st.integers(1, 32),
    margin=st.floats(0.05, 2),
    sigma=st.floats(0.001, 0.5),
    spare=st.floats(1e-3, 0.2),
    shares=st.floats(0, 1),
)
def test_what_is_kept_back_covers_rounding_of_both_maps(
    latent: int, margin: float, sigma: float, spare: float, shares: float
) -> None:
    """`r` smaller and the shift larger by shares that sum to less than the spare one: the margin still holds."""
    r, b = 2.0, 1.5
    [design] = design_frontier(latent=latent, r=r, margin=margin, b=b, sigmas=[sigma])
    less, more = 0.9 * spare * shares, 0.9 * spare * (1 - shares)
    std = torch.tensor([sigma], dtype=torch.float64)
    a = torch.full_like(std, design.a_isotropic * (1 - spare))
    assert by_isotropic(latent, r * (1 - less), b * margin * (1 + more), std, a) > 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 0.0},
        {"b": -1.0},
        {"sigmas": [0.1, 0.0]},
        {"r": 0.0},
        {"p": 1.0},
        {"margin": 1e-200, "b": 1e-200},
        {"margin": 1e200, "b": 1e200},
        {"margin": 1e-320},
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, object]) -> None:
    ask = {"latent": 10, "r": 8.0, "margin": 0.3, "b": 5.0, "sigmas": [0.1]}
    with pytest.raises(ValueError, match="expected"):
        design_frontier(**{**ask, **wrong})  # type: ignore[arg-type]


def designs(**budgets: float) -> list[Design]:
    """Designs at `b` = 2 whose isotropic constants are given by the names of their standard deviations, s1 for 0.1."""
    return [Design(sigma=int(name[1:]) / 10, b=2.0, a_barrett=0.0, a_isotropic=a) for name, a in budgets.items()]


def test_the_largest_deviation_that_keeps_half_is_chosen() -> None:
    found = designs(s1=9.0, s3=2.0, s2=5.0)
    assert choose_design(found, r=20.0, margin=1.0).sigma == 0.2
    assert choose_design(found, r=20.1, margin=1.0).sigma == 0.1
    assert choose_design(found, r=60.0, margin=1.0).sigma == 0.1  # none keeps half: the smallest
    assert choose_design(found, r=20.0, margin=1.0, sigma=0.3) is found[1]


def test_a_point_that_is_not_there_or_has_no_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected `sigma` among 0.1, 0.2, got 0.3"):
        choose_design(designs(s1=1.0, s2=0.5), r=8.0, margin=1.0, sigma=0.3)
    with pytest.raises(
        ValueError, match=r"expected a `margin` that is promised by some `a\*b` >= 1e-06 at sigma = 0.1"
    ):
        choose_design(designs(s1=0.0), r=8.0, margin=1.0)
    hopeless = design_frontier(latent=10, r=8.0, margin=1.0, b=1.0, sigmas=[0.1], p=1 - 1e-10)
    assert hopeless[0].a_isotropic == 0.0


KEPT: dict[str, Any] = {"r": 8.0, "p": 0.5, "margin": 0.3, "latent": 10, "sigma": 0.1, "a": 15.295, "b": 1.0}


def test_a_promise_that_is_not_kept_cannot_be_made() -> None:
    promise = Promise(**KEPT)
    assert replace(promise, a=15.0).a == 15.0
    for broken in (
        {"a": 15.31},
        {"margin": 0.31},
        {"sigma": 0.11},
        {"b": 1.01},
        {"r": 7.9},
        {"p": 0.51},
        {"latent": 11},
    ):
        with pytest.raises(ValueError, match=r"expected budgets that promise a `margin` of"):
            replace(promise, **broken)


def test_an_architecture_must_be_the_promised_one() -> None:
    promise = Promise(**KEPT)
    model = ModelOptions(**promise.options())
    promise.check(model)
    promise.check(replace(model, family="lipschitz_conv", hidden=(8,), likelihood="gaussian"))
    wrong: dict[str, Any] = {"a": 5.0, "b": 0.5, "std": 0.2, "latent": 9, "family": "plain", "spread": "bounded"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=rf"expected `{name}` .*, which the design promises its margin for, got "):
            promise.check(replace(model, **{name: value}))


def written(path: Path, **changes: Any) -> Path:
    held = {**KEPT, **changes}
    parts = {"question": ("r", "p", "margin", "latent"), "chosen": ("sigma", "a", "b")}
    path.write_text(json.dumps({part: {name: held[name] for name in names} for part, names in parts.items()}))
    return path


def test_a_promise_is_read_back(tmp_path: Path) -> None:
    assert read_promise(written(tmp_path / "design.json", r=8, b=1)) == Promise(**KEPT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a": 30.0}, "expected budgets that promise a `margin` of 0.3, got `a` = 30.0, `b` = 1.0, `sigma` = 0.1"),
        ({"a": "x"}, "expected a finite number `chosen.a`, got 'x'"),
        ({"a": True}, "expected a finite number `chosen.a`, got True"),
        ({"a": None}, "expected a finite number `chosen.a`, got None"),
        ({"a": 10**400}, "expected a finite number `chosen.a`, got 1000"),
        ({"margin": float("nan")}, "expected a finite number `question.margin`, got nan"),
        ({"margin": -1.0}, "expected a finite `margin` > 0, got -1.0"),
        ({"latent": 10.0}, "expected a whole number `question.latent`, got 10.0"),
        ({"latent": 0}, "expected `latent` >= 1, got 0"),
        ({"p": 0.2}, "expected `p` in [1/2, 1), got 0.2"),
    ],
    ids=str,
)
def test_a_design_that_promises_nothing_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "design.json", **changes)
    with pytest.raises(ValueError, match=r"expected the design\.json of `vaerdict design --out`, got") as error:
        read_promise(path)
    assert f"got {path}: {said}" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"3", b'{"question": 1}', b"\xff\xfe", None])
def test_a_file_that_is_no_design_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected the design\.json of `vaerdict design --out`, got"):
        read_promise(path)
