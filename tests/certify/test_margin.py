"""The solver returns only radii at which the probability was evaluated and found large enough."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.certify.margin import solve_margin


@given(roots=st.lists(st.floats(1e-6, 9.9), min_size=1, max_size=5))
def test_every_returned_radius_was_verified(roots: list[float]) -> None:
    targets = torch.tensor(roots, dtype=torch.float64)
    evaluated: list[torch.Tensor] = []

    def probability(rho: torch.Tensor) -> torch.Tensor:
        evaluated.append(torch.where(rho < targets, rho, torch.nan))
        return (rho < targets).double()

    margins = solve_margin(probability, 0.5, torch.full_like(targets, 10.0))
    assert (margins < targets).all()
    assert torch.allclose(margins, targets, rtol=1e-9, atol=1e-12)
    assert (torch.stack(evaluated) == margins).any(0).all()


def test_zero_where_nothing_can_be_verified() -> None:
    upper = torch.ones(3, dtype=torch.float64)
    assert solve_margin(lambda rho: torch.zeros_like(rho), 0.5, upper).tolist() == [0.0, 0.0, 0.0]
