"""The tables of a report: rows in, cells out. Different strengths of certificate never share a column."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from vaerdict.reports.cells import Cell, Spread
from vaerdict.reports.groups import NORMS, QUESTION, STRENGTHS, Group, groups, labelled, split, strengths, varying
from vaerdict.reports.rounding import percent, rounded

WORST = "worst of all"
_COUNTS = ("unbroken", "unsupported", "failed")
_NAMES = {"dataset": "data", "norm": "norm", "r": "r", "p": "p", "reconstruction": "reconstruction"}


def table_margins(table: pd.DataFrame) -> pd.DataFrame:
    """Give certified and attacked margins and their ratio, one line per model and question.

    Spreads are the median and the quartiles over samples; margins are in pixel units of the question's norm. The
    ratio is over the samples that have both margins; it is 0 where no attack succeeded.

    >>> from vaerdict import results
    >>> table_margins(results.frame([])).shape
    (0, 0)
    """
    found = groups(table)
    return _table(
        {**_question(group, varying(found)), **_margins(group, strengths(table))} for group in found
    )  # fmt: skip


def table_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Give each certificate method on its own: margins, share above zero, samples it did not apply to.

    >>> from vaerdict import results
    >>> table_methods(results.frame([])).shape
    (0, 0)
    """
    table = labelled(table)
    rows, kinds = table[table["kind"] == "certificate"], strengths(table)
    return _table(
        {**facts, "method": method, **_method(held, kinds)} for facts, method, held in _by_method(rows)
    )  # fmt: skip


def table_attacks(table: pd.DataFrame) -> pd.DataFrame:
    """Give the attacks at a fixed radius: damage (pixel units, L2), success share and cost per sample.

    Where several attacks share a radius, a line `worst of all` takes the largest damage of each sample.

    >>> from vaerdict import results
    >>> table_attacks(results.frame([])).shape
    (0, 0)
    """
    return _table(_attack_lines(fixed_radius(labelled(table))))


def table_estimates(table: pd.DataFrame) -> pd.DataFrame:
    """Give the estimates, which are neither certificates nor attacks, one line per model, question and method.

    >>> from vaerdict import results
    >>> table_estimates(results.frame([])).shape
    (0, 0)
    """
    table = labelled(table)
    rows = table[(table["kind"] == "estimate") & (table["status"] == "ok") & table["margin"].notna()]
    return _table(
        {**facts, "method": method, "estimated margin": Spread.of(held["margin"], "nearest"), "n": len(held)}
        for facts, method, held in _by_method(rows)
    )


def table_unsupported(table: pd.DataFrame) -> pd.DataFrame:
    """Give what did not apply or failed, with the reason and the number of samples.

    >>> from vaerdict import results
    >>> table_unsupported(results.frame([])).shape
    (0, 0)
    """
    table = labelled(table)
    rows = table[table["status"] != "ok"]
    names = ["label", "kind", "method", "status", "reason"]
    counted = rows.groupby(names, sort=True)["sample_id"].nunique().reset_index(name="samples")
    return _table(counted.rename(columns={"label": "model"}).to_dict("records"))


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out, for a page, what says nothing there: equal counts, columns of zeros, what a heading said before.

    Where certificates of several strengths stand side by side, only their margins and ratios are kept; what else is
    known of them is in the table of each strength. Which attack won is told only where there is no certificate.

    >>> list(compact(pd.DataFrame({"model": ["a"], "n (proved)": [2], "n (attacked)": [2], "unbroken": [0]})))
    ['model', 'n']
    """
    table = _one_count(table)
    kinds = [kind for kind in STRENGTHS if f"certified ({kind})" in table]
    details = [f"{name} ({kind})" for name in ("> 0 [%]", "by") for kind in kinds]
    if len(kinds) > (1 if "attacked" in table else 2):
        table = table.drop(columns=details, errors="ignore")
    idle = [str(name) for name in table if name in _COUNTS and not table[name].any()]
    idle += [str(name) for name in table if table[name].isna().all()]
    idle += [name for name in ("by (attacked)",) if name in table and (kinds or table[name].nunique() == 1)]
    short = {f"{name} ({kinds[0]})": name for name in ("> 0 [%]", "by", "ratio")} if len(kinds) == 1 else {}
    return table.drop(columns=list(dict.fromkeys(idle))).rename(columns=short)


def _one_count(table: pd.DataFrame) -> pd.DataFrame:
    counts = table[[str(name) for name in table if str(name).startswith("n (")]]
    held = counts.where(counts != 0)
    if held.empty or not (held.nunique(axis=1) == 1).all():
        return table
    return table.drop(columns=list(counts)).assign(n=held.max(axis=1).astype(int).astype(object))


def fixed_radius(table: pd.DataFrame) -> pd.DataFrame:
    """Give the attacks that were run at a fixed radius.

    >>> from vaerdict import results
    >>> len(fixed_radius(results.frame([])))
    0
    """
    held = (table["kind"] == "attack") & (table["status"] == "ok") & table["damage"].notna()
    return table[held & table["fixed_radius"].eq(True)]


def _table(lines: Any) -> pd.DataFrame:
    # dtype=object: a column of whole numbers with a gap must not turn into floats.
    return pd.DataFrame(list(lines), dtype=object)


def _question(group: Group, names: list[str]) -> dict[str, Cell]:
    facts: dict[str, Cell] = {"model": group.label}
    for name in names:
        value = getattr(group, name)
        facts[_NAMES[name]] = NORMS[value] if name == "norm" else value if isinstance(value, str) else f"{value:.4g}"
    return facts


def _margins(group: Group, kinds: list[str]) -> dict[str, Cell]:
    attacked = group.attacked()
    cells: dict[str, Cell] = {}
    for kind in kinds:
        rows = group.certified(kind)
        cells[f"certified ({kind})"] = Spread.of(rows["certified"], "down")
        cells[f"> 0 [%] ({kind})"] = percent(int((rows["certified"] > 0).sum()), len(rows))
        cells[f"n ({kind})"] = len(rows)
        cells[f"by ({kind})"] = _winners(rows.loc[rows["certified"] > 0, "certified_by"])
    cells["attacked"] = Spread.of(attacked["attacked"], "up")
    cells["n (attacked)"] = len(attacked)
    cells["unbroken"] = int(np.isinf(attacked["attacked"]).sum())
    cells["by (attacked)"] = _winners(attacked.loc[np.isfinite(attacked["attacked"]), "attacked_by"])
    for kind in kinds:
        cells[f"ratio ({kind})"] = Spread.of(group.certified(kind)["ratio"], "down")
    return cells


def _winners(methods: pd.Series) -> str | None:
    counts = methods.value_counts()
    best = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    if len(best) == 1:
        return str(best[0][0])
    return ", ".join(f"{method} {percent(count, len(methods))} %" for method, count in best) or None


def _by_method(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Cell], str, pd.DataFrame]]:
    for group, (method,) in split(rows, "method"):
        yield _question(group, _shown(rows)), method, group.rows


def _shown(rows: pd.DataFrame) -> list[str]:
    return [name for name in QUESTION if rows[name].nunique() > 1]


def _method(rows: pd.DataFrame, kinds: list[str]) -> dict[str, Cell]:
    ok = rows[(rows["status"] == "ok") & rows["margin"].notna()]
    cells: dict[str, Cell] = {}
    for kind in kinds:
        held = ok.loc[ok["strength"] == kind, "margin"]
        cells[f"certified ({kind})"] = Spread.of(held, "down")
        cells[f"> 0 [%] ({kind})"] = percent(int((held > 0).sum()), len(held))
    cells["n"] = len(ok)
    cells["unsupported"] = int((rows["status"] == "unsupported").sum())
    cells["failed"] = int((rows["status"] == "error").sum())
    cells["time [s]"] = _median(ok["time_s"])
    return cells


def _attack_lines(rows: pd.DataFrame) -> Iterator[dict[str, Cell]]:
    for group, (rho,) in split(rows, "rho"):
        facts = {**_question(group, _shown(rows)), "\N{GREEK SMALL LETTER RHO}": f"{rho:.4g}"}
        for method, own in group.rows.groupby("method", sort=True):
            yield {**facts, "attack": str(method), **_attack(own)}
        if group.rows["method"].nunique() > 1:
            yield {**facts, "attack": WORST, **_attack(_worst(group.rows))}


def _worst(rows: pd.DataFrame) -> pd.DataFrame:
    each = rows.groupby("sample_id")
    return each.agg({"damage": "max", "margin": "min", "n_forward": "sum", "n_backward": "sum", "time_s": "sum"})


def _attack(rows: pd.DataFrame) -> dict[str, Cell]:
    return {
        "damage": Spread.of(rows["damage"], "down"),
        "success [%]": percent(int(np.isfinite(rows["margin"]).sum()), len(rows)),
        "n": len(rows),
        "forward": _median(rows["n_forward"]),
        "backward": _median(rows["n_backward"]),
        "time [s]": _median(rows["time_s"]),
    }


def _median(values: pd.Series) -> str | None:
    return rounded(float(values.median()), "nearest") if len(values) else None
