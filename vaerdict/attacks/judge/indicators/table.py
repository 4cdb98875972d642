"""Indicators that need several rows."""

import pandas as pd

from vaerdict.attacks.judge.indicators.probe import TOLERANCE
from vaerdict.results import KEY

_SAME = [*KEY, "model", "dataset", "sample_id", "method"]


def table_not_monotone(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows at a fixed radius whose damage the same method beat, on the same sample, at a smaller radius.

    Such a search failed: the smaller perturbation was allowed to it, too. Of several runs at a radius the best counts.
    A drop of less than 1 % is none, as it may come from the judge's draws.

    Args:
        table: of rows, as `results.load` and `results.frame` give it; others than attacks are left out.

    Returns:
        One line per failure: what the sample and the question are, `method`, `rho`, `damage` there, `best`, the
        largest damage at a smaller radius, and `best_rho`, that radius; the smallest radii first.

    >>> from vaerdict.results import Row, frame
    >>> row = dict(model="m", model_sha256="m", dataset="d", sample_id=0, sample_sha256="s", r=1.0, kind="attack")
    >>> row |= dict(strength="empirical", method="pgd", fixed_radius=True)
    >>> table_not_monotone(frame([Row(**row, rho=1.0, damage=2.0), Row(**row, rho=2.0, damage=1.0)]))["rho"].tolist()
    [2.0]
    """
    rows = table[table["kind"].eq("attack") & table["fixed_radius"].eq(True) & table["status"].eq("ok")]
    rows = rows[rows["damage"].notna()]
    best = rows.groupby([*_SAME, "rho"], dropna=False)["damage"].max().reset_index().sort_values("rho", kind="stable")
    best["best"] = best.groupby(_SAME, dropna=False)["damage"].transform(lambda damage: damage.cummax().shift())
    best["best_rho"] = best["rho"].mask(best["damage"].le(best["best"]))
    best["best_rho"] = best.groupby(_SAME, dropna=False)["best_rho"].ffill()
    return best[best["damage"] * (1 + TOLERANCE) < best["best"]].reset_index(drop=True)
