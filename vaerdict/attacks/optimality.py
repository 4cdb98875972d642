"""How near each attack comes to the best of all, from a table of results: AttackBench's score (Cina et al. 2025)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from vaerdict.results import KEY

_QUESTION = ["model", "dataset", *(name for name in KEY if name != "sample_sha256")]
_SAMPLE = ["sample_sha256", "sample_id"]


def margin_optimality(margins: Float[np.ndarray, " samples"], best: Float[np.ndarray, " samples"]) -> float:
    """Give `1 - (A - A*) / (A0 - A*)`: 1 for an attack that is the best everywhere, 0 for one that finds nothing.

    `A` is the area under the share of samples that are not broken yet, over the radius up to the largest of the finite
    `best`; `A*` that of the best, and `A0` that of an attack that breaks only what is broken without a perturbation.

    Args:
        margins: the smallest perturbation that the attack found for each sample; infinite where it found none.
        best: the smallest that any attack found.

    Returns:
        A number in [0, 1]; NaN where the areas leave nothing to tell: nobody broke anything, or the best breaks all
        samples at one radius.

    >>> round(margin_optimality(np.array([1.0, 4.0, np.inf]), np.array([1.0, 2.0, 4.0])), 3)
    0.6
    """
    broken = best[np.isfinite(best)]
    if not broken.size:
        return float("nan")
    last = broken.max()
    # A sample that is broken without a perturbation is so for everyone.
    found, least = (np.minimum(np.where(best > 0, one, 0.0), last).mean() for one in (margins, best))
    nothing = last * (best > 0).mean()
    return float(1 - (found - least) / (nothing - least)) if nothing > least else float("nan")


def damage_optimality(
    radii: Float[np.ndarray, "radii samples"],
    damages: Float[np.ndarray, "radii samples"],
    best: Float[np.ndarray, "radii samples"],
) -> float:
    """Give the area under the damage over the radius as a share of that under the best damage, all samples together.

    Args:
        radii: increasing for each sample; where there is only one, damages are compared instead of areas.
        damages: what the attack did at each radius.
        best: the most that any attack did at this or a smaller radius.

    Returns:
        A number in [0, 1]; NaN where the best did nothing.

    >>> damage_optimality(np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]]))
    0.5
    """
    done, most = (_area(radii, one) for one in (damages, best))
    return float(done / most) if most > 0 else float("nan")


def table_optimality(table: pd.DataFrame) -> pd.DataFrame:
    """Give, per question and method, how near attacks come to the best of all that are in the table.

    A suite's worst case, if it has rows of its own, should be left out: nothing but itself would be optimal.

    Args:
        table: of rows, as `results.load` and `results.frame` give it; others than attacks are left out. Of several
            runs of a method the best counts.

    Returns:
        One line per model, dataset, question, kind of search (`fixed_radius`) and method: `optimality`, of margins or
        of damages; `alone`, the share of samples (of samples and radii, where these are fixed) that this method broke
        and no other did; `samples`.

    Raises:
        ValueError: methods were run on different samples, or at different radii, so that they cannot be compared.

    >>> from vaerdict.results import Row, frame
    >>> row = dict(model="m", model_sha256="m", dataset="d", sample_id=0, sample_sha256="s", r=1.0, kind="attack")
    >>> found = [Row(**row, strength="empirical", method=f"m{i}", margin=i) for i in (1.0, 2.0)]
    >>> table_optimality(frame(found))["alone"].tolist()
    [0.0, 0.0]
    """
    attacks = table[table["kind"].eq("attack")].assign(
        margin=lambda rows: rows["margin"].fillna(np.inf), damage=lambda rows: rows["damage"].fillna(0.0)
    )
    names = [*_QUESTION, "fixed_radius"]
    lines: list[dict[str, Any]] = []
    for values, rows in attacks.groupby(names, dropna=False):
        asked = dict(zip(names, values, strict=True))
        told = _of_damages(rows) if asked["fixed_radius"] else _of_margins(rows)
        lines += [{**asked, **line} for line in told]
    return pd.DataFrame(lines, columns=[*names, "method", "optimality", "alone", "samples"])


def _of_margins(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    margins = _per_method(rows, _SAMPLE, "margin", "min")
    best, broken = margins.min(axis=1).to_numpy(), pd.DataFrame(np.isfinite(margins))
    for method in margins:
        yield {
            "method": method,
            "optimality": margin_optimality(margins[method].to_numpy(), best),
            "alone": _alone(broken, method),
            "samples": len(margins),
        }


def _of_damages(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    cells = [*_SAMPLE, "rho"]
    damages = _per_method(rows, cells, "damage", "max")
    broken = pd.DataFrame(np.isfinite(_per_method(rows, cells, "margin", "min")))
    # A perturbation found at a smaller radius is allowed at this one, too.
    best = _grid(damages.max(axis=1).groupby(level=_SAMPLE).cummax())
    radii = _grid(pd.Series(damages.index.get_level_values("rho"), index=damages.index))
    for method in damages:
        yield {
            "method": method,
            "optimality": damage_optimality(radii, _grid(damages[method]), best),
            "alone": _alone(broken, method),
            "samples": radii.shape[1],
        }


def _per_method(rows: pd.DataFrame, cells: list[str], value: str, best: str) -> pd.DataFrame:
    """Give one column per method, with its best value for each cell, in the cells' order."""
    wide = rows.groupby([*cells, "method"])[value].agg(best).unstack("method").sort_index()
    for method in wide:
        lacking = wide.index[wide[method].isna()]
        if len(lacking):
            raise ValueError(
                f"expected {' and '.join(cells[1:])} to be the same for all methods, "
                f"got nothing of {method} for {lacking[0][1:]}"
            )
    return wide


def _alone(broken: pd.DataFrame, method: Any) -> float:
    return float((broken[method] & broken.sum(axis=1).eq(1)).mean())


def _grid(values: pd.Series) -> Float[np.ndarray, "radii samples"]:
    """Give a column over samples and radii as a matrix, increasing radii below each other."""
    counts = values.groupby(level=_SAMPLE).size().unique()
    if len(counts) > 1:
        raise ValueError(f"expected as many radii for each sample, got {' and '.join(map(str, sorted(counts)))}")
    return values.to_numpy(dtype=np.float64).reshape(-1, counts[0]).T


def _area(radii: np.ndarray, heights: np.ndarray) -> float:
    if len(radii) == 1:
        return float(heights.sum())
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(radii, axis=0)).sum())
