"""A design's promise is what the certificate then finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.certify import design_frontier, margin_barrett, margin_isotropic


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
        assert solve(a=a * (1 + 1e-6), **ask) >= margin * (1 - 1e-9)
        assert solve(a=a * (1 + 3e-5), **ask) <= margin


def test_scaling_the_latent_space_changes_nothing() -> None:
    ask = {"latent": 10, "r": 8.0, "margin": 0.3}
    [one] = design_frontier(b=5.0, sigmas=[0.1], **ask)
    [two] = design_frontier(b=10.0, sigmas=[0.2], **ask)
    assert one.a_isotropic == pytest.approx(2 * two.a_isotropic, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"b": -1.0}, {"sigmas": [0.1, 0.0]}, {"r": 0.0}, {"p": 1.0}])
def test_wrong_numbers_are_named(wrong: dict[str, object]) -> None:
    ask = {"latent": 10, "r": 8.0, "margin": 0.3, "b": 5.0, "sigmas": [0.1]}
    with pytest.raises(ValueError, match="expected"):
        design_frontier(**{**ask, **wrong})  # type: ignore[arg-type]
