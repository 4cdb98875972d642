import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.attacks.optimality import damage_optimality, margin_optimality, table_optimality
from vaerdict.results import Row, frame

INF = math.inf
BASE = Row(
    model="m",
    model_sha256="m0",
    dataset="d",
    sample_id=0,
    sample_sha256="s0",
    kind="attack",
    strength="empirical",
    method="pgd-damage",
    r=1.0,
)


def margins(**found: list[float | None]) -> pd.DataFrame:
    """Give a table of margins, one list per method and one entry per sample; None where the search failed."""
    return frame(
        replace(
            BASE, method=method, sample_id=i, sample_sha256=f"s{i}", margin=margin, status="ok" if margin else "error"
        )
        for method, values in found.items()
        for i, margin in enumerate(values)
    )


def damages(**found: dict[float, list[tuple[float, bool]]]) -> pd.DataFrame:
    """Give a table of damages and successes, per method, radius and sample."""
    return frame(
        replace(
            BASE, method=method, sample_id=i, sample_sha256=f"s{i}", rho=radius, fixed_radius=True,
            damage=damage, margin=radius if success else INF,
        )
        for method, radii in found.items()
        for radius, values in radii.items()
        for i, (damage, success) in enumerate(values)
    )  # fmt: skip


def told(table: pd.DataFrame, column: str) -> dict[str, float]:
    return table_optimality(table).set_index("method")[column].to_dict()


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_margin_optimality_is_attackbenchs_formula(values: list[float], random) -> None:
    found = np.array([one * random.choice([1.0, 1.5, 3.0, INF]) for one in values])
    best = np.array(values)
    best[0] = found[0] = 0.0
    last = best.max()
    grid = np.unique(np.concatenate([[0.0, last], np.minimum(best, last), np.minimum(found, last)]))
    middles = (grid[1:] + grid[:-1]) / 2

    def area(distances: np.ndarray) -> float:
        return float(sum(w * (distances > at).mean() for at, w in zip(middles, np.diff(grid), strict=True)))

    clean = float((best > 0).mean())
    if clean * last - area(best) > 1e-9:
        expected = 1 - (area(found) - area(best)) / (clean * last - area(best))
        assert margin_optimality(found, best) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("found", "best", "expected"),
    [
        ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 1.0),
        ([1.0, 4.0, INF], [1.0, 2.0, 4.0], 0.6),
        ([INF, INF, INF], [1.0, 2.0, 4.0], 0.0),
        ([1.0, 2.0, INF], [1.0, 2.0, INF], 1.0),
        ([0.7, 2.0, 4.0], [0.0, 2.0, 4.0], 1.0),
        ([INF, 4.0, 4.0], [0.0, 2.0, 4.0], 0.0),
        ([INF, INF], [INF, INF], math.nan),
        ([2.0, 3.0], [2.0, 2.0], math.nan),
    ],
)
def test_margin_optimality_by_hand(found: list[float], best: list[float], expected: float) -> None:
    assert margin_optimality(np.array(found), np.array(best)) == pytest.approx(expected, nan_ok=True)


def test_damage_optimality_is_a_ratio_of_areas() -> None:
    radii = np.array([[1.0, 1.0], [2.0, 3.0]])
    best = np.array([[2.0, 2.0], [4.0, 6.0]])
    done = np.array([[2.0, 0.0], [2.0, 6.0]])
    assert damage_optimality(radii, done, best) == pytest.approx((2.0 + 6.0) / (3.0 + 8.0))
    assert damage_optimality(radii[:1], done[:1], best[:1]) == 0.5
    assert math.isnan(damage_optimality(radii, done, np.zeros((2, 2))))


def test_the_best_of_all_is_taken_per_sample() -> None:
    table = margins(one=[1.0, 4.0, 4.0], other=[2.0, 2.0, None])
    # Best 1, 2, 4; areas 7/3 for it, 3 and 8/3 for the two, 4 for nothing.
    assert told(table, "optimality") == pytest.approx({"one": 0.6, "other": 0.8})
    assert told(table, "alone") == pytest.approx({"one": 1 / 3, "other": 0.0})
    assert told(table, "samples") == {"one": 3, "other": 3}


def test_the_best_of_several_runs_counts_and_certificates_do_not() -> None:
    first, again = margins(one=[3.0, 4.0], other=[2.0, 2.0]), margins(one=[2.0, 5.0])
    certificate = first[:1].assign(kind="certificate", margin=0.1)
    table = pd.concat([first, again.assign(seed=1), certificate])
    assert told(table, "optimality") == pytest.approx(
        told(margins(one=[2.0, 4.0], other=[2.0, 2.0]), "optimality"), nan_ok=True
    )


def test_damages_are_held_against_the_best_at_this_or_a_smaller_radius() -> None:
    table = damages(
        one={1.0: [(1.0, False), (2.0, True)], 2.0: [(3.0, True), (1.0, False)]},
        other={2.0: [(2.0, False), (2.0, True)], 1.0: [(1.0, False), (1.0, False)]},
    )
    # Best 1 and 3 on the first sample, 2 and, from the smaller radius, 2 on the second: areas 2 and 2.
    assert told(table, "optimality") == pytest.approx({"one": (2.0 + 1.5) / 4, "other": (1.5 + 1.5) / 4})
    assert told(table, "alone") == pytest.approx({"one": 2 / 4, "other": 1 / 4})
    assert told(table, "samples") == {"one": 2, "other": 2}


def test_each_image_may_have_its_own_radii() -> None:
    rows = [
        replace(
            BASE, method=method, sample_id=i, sample_sha256=f"s{i}", rho=rho, fixed_radius=True, damage=factor * rho
        )
        for method, factor in [("one", 1.0), ("other", 0.5)]
        for i, radii in enumerate([(1.0, 2.0), (3.0, 5.0)])
        for rho in radii
    ]
    assert told(frame(rows), "optimality") == pytest.approx({"one": 1.0, "other": 0.5})


def test_questions_are_kept_apart() -> None:
    two = margins(one=[1.0, 2.0], other=[1.0, 3.0])
    table = pd.concat([two, two.assign(r=2.0), damages(one={1.0: [(1.0, True)]})])
    lines = table_optimality(table)
    assert lines[["r", "fixed_radius", "method"]].to_numpy().tolist() == [
        [1.0, False, "one"], [1.0, False, "other"], [1.0, True, "one"], [2.0, False, "one"], [2.0, False, "other"],
    ]  # fmt: skip


def test_methods_on_other_samples_or_radii_are_refused() -> None:
    table = margins(one=[1.0, 2.0], other=[1.0])
    with pytest.raises(ValueError, match="expected sample_id to be the same for all methods, got nothing of other"):
        table_optimality(table)
    table = damages(one={1.0: [(1.0, True)]}, other={2.0: [(1.0, True)]})
    with pytest.raises(ValueError, match="expected sample_id and rho to be the same for all methods"):
        table_optimality(table)
    table = damages(one={1.0: [(1.0, True), (1.0, True)], 2.0: [(1.0, True)]})
    with pytest.raises(ValueError, match="expected as many radii for each sample, got 1 and 2"):
        table_optimality(table)


def test_no_attacks_are_no_lines() -> None:
    assert table_optimality(margins(one=[1.0]).assign(kind="certificate")).empty
