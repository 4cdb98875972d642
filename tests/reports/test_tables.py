import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.reports import runs
from vaerdict.reports import table_attacks, table_estimates, table_margins, table_methods, table_unsupported
from vaerdict.reports.cells import csv, escape_latex, latex
from vaerdict.reports.tables import compact, fixed_radius
from vaerdict.results import frame


def read(table: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv(table)))


def floor3(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.floor(value / unit) * unit


def ceil3(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


@pytest.mark.parametrize("model", runs.SHA)
def test_margins_are_numpy_s_rounded_outwards(model: str) -> None:
    line = read(table_margins(frame(runs.full_rows()))).set_index("model").loc[model]
    certified, attacked = runs.margins(model)
    columns = {
        "certified (numerical)": (certified, floor3),
        "attacked": (attacked, ceil3),
        "ratio (numerical)": (certified / attacked, floor3),
    }
    for name, (values, outwards) in columns.items():
        for part, share in (("median", 0.5), ("q25", 0.25), ("q75", 0.75)):
            exact = np.quantile(values, share)
            assert line[f"{name} {part}"] == pytest.approx(outwards(exact), rel=1e-9)
    assert line["certified (numerical) median"] < np.median(certified)
    assert line["attacked median"] > np.median(attacked)
    assert line["n (numerical)"] == line["n (attacked)"] == runs.SAMPLES
    assert line["by (numerical)"] == "barrett"


def test_strengths_have_columns_of_their_own() -> None:
    lines = read(table_margins(frame(runs.full_rows()))).set_index("model")
    assert lines.loc["plain_vae", "n (statistical)"] == 0
    assert np.isnan(lines.loc["plain_vae", "certified (statistical) median"])
    certified = 0.9 * np.median(runs.margins("lipschitz")[0])
    assert lines.loc["lipschitz", "certified (statistical) median"] == pytest.approx(floor3(certified))


def test_zero_and_infinite_margins_are_counted() -> None:
    rows = [replace(row, margin=0.0) if row.sample_id < 10 else row for row in runs.certificates("lipschitz")]
    line = read(table_margins(frame(rows + runs.attacks("lipschitz", unbroken=30)))).iloc[0]
    assert line["> 0 [%] (numerical)"] == 75.0
    assert line["unbroken"] == 30
    assert line["attacked median"] == math.inf
    assert line["ratio (numerical) median"] == 0.0


def test_the_question_is_a_column_only_where_it_varies() -> None:
    rows = runs.certificates("lipschitz")
    assert "r" not in table_margins(frame(rows))
    both = table_margins(frame(rows + [replace(row, norm="inf", r=3.0) for row in rows]))
    assert list(both["norm"]) == ["L2", "L∞"]
    assert list(both["r"]) == ["1.2", "3"]


def test_weights_that_share_a_name_are_not_pooled() -> None:
    rows = runs.certificates("lipschitz")
    other = [replace(row, model_sha256="abcdef99", margin=5.0) for row in rows]
    assert list(table_margins(frame(rows + other))["model"]) == ["lipschitz (111111)", "lipschitz (abcdef)"]


def test_methods_count_what_they_did_not_apply_to() -> None:
    lines = read(table_methods(frame(runs.full_rows()))).set_index(["model", "method"])
    assert lines.loc[("plain_vae", "shift"), ["n", "unsupported"]].tolist() == [0, 40]
    isotropic = lines.loc[("lipschitz", "isotropic"), "certified (numerical) median"]
    assert isotropic == pytest.approx(floor3(0.8 * np.median(runs.margins("lipschitz")[0])))
    assert lines.loc[("lipschitz", "barrett"), "time [s]"] == pytest.approx(0.205)


def test_attacks_at_a_fixed_radius_and_the_worst_of_them() -> None:
    lines = read(table_attacks(frame(runs.full_rows()))).set_index(["model", "attack"])
    damage = runs.R["plain_vae"] * 0.5 / runs.margins("plain_vae")[1]
    assert lines.loc[("plain_vae", "pgd-damage"), "damage median"] == pytest.approx(floor3(np.median(damage)))
    share = 100 * np.mean(damage > runs.R["plain_vae"])
    assert lines.loc[("plain_vae", "pgd-damage"), "success [%]"] == share == 87.5
    worst = lines.loc[("plain_vae", "worst of all")]
    assert worst["damage median"] == lines.loc[("plain_vae", "pgd-damage"), "damage median"]
    assert worst["forward"] == 100


def test_large_costs_are_written_out() -> None:
    rows = [replace(row, n_forward=20300) for row in runs.fixed("lipschitz", "pgd-damage", 0.5)]
    assert table_attacks(frame(rows)).iloc[0]["forward"] == "20300"
    assert escape_latex("2.03e+04") == r"\ensuremath{2.03\times10^{4}}"


def test_a_search_for_the_margin_is_no_attack_at_a_fixed_radius() -> None:
    rows = [replace(row, damage=1.3) for row in runs.attacks("lipschitz")] + runs.fixed("lipschitz", "pgd-damage", 0.5)
    assert set(fixed_radius(frame(rows))["method"]) == {"pgd-damage"}


def test_one_margin_a_rounding_beyond_the_radius_hides_no_attack() -> None:
    rows = runs.fixed("plain_vae", "pgd-damage", 0.5)
    rows[10] = replace(rows[10], margin=0.50001)
    assert len(fixed_radius(frame(rows))) == runs.SAMPLES


def test_radii_count_only_beside_a_search_for_the_margin() -> None:
    fixed = runs.fixed("plain_vae", "pgd-damage", 0.25)
    alone = runs.certificates("plain_vae") + fixed
    assert read(table_margins(frame(alone))).iloc[0]["n (attacked)"] == 0
    searched = [replace(row, margin=9.0) for row in runs.attacks("plain_vae")[:30]]
    line = read(table_margins(frame(alone + searched))).iloc[0]
    successes = sum(row.margin == 0.25 for row in fixed[:30])
    assert 0 < successes < 15
    assert (line["n (attacked)"], line["unbroken"], line["attacked median"]) == (30, 0, 9.0)
    assert f"pgd-damage {100 * successes / 30:.1f} %" in line["by (attacked)"]


def test_estimates_enter_no_certified_column() -> None:
    rows = frame(runs.estimates("lipschitz") + runs.attacks("lipschitz"))
    assert not [name for name in table_margins(rows) if "certified" in name]
    line = read(table_estimates(rows)).iloc[0]
    expected = 2 * np.median(runs.margins("lipschitz")[0])
    assert line["estimated margin median"] == pytest.approx(expected, rel=5e-3)


def test_what_did_not_apply_is_listed_with_its_reason() -> None:
    line = table_unsupported(frame(runs.full_rows())).iloc[0]
    assert (line["model"], line["method"], line["samples"]) == ("plain_vae", "shift", 40)
    assert "no global Lipschitz constant" in line["reason"]


def test_compact_keeps_counts_that_differ() -> None:
    rows = frame(runs.certificates("lipschitz") + runs.attacks("lipschitz")[:10])
    assert {"n (numerical)", "n (attacked)"} <= set(compact(table_margins(rows)))
    assert "n" in compact(table_margins(frame(runs.certificates("lipschitz") + runs.attacks("lipschitz"))))


def test_every_latex_line_has_as_many_cells_as_columns() -> None:
    table = table_methods(frame(runs.full_rows()))
    lines = [line.replace(r"\&", "") for line in latex(table).splitlines() if line.endswith(r"\\")]
    body = [line for line in lines if "multicolumn" not in line]
    assert {line.count("&") + 1 for line in body} == {len(table.columns)}
    assert len(body) == len(table) + 1


def test_latex_specials_are_escaped() -> None:
    assert escape_latex(r"a\b & 5% $x_1^2 {y} ~#") == (
        r"a\textbackslash{}b \& 5\% \$x\_1\textasciicircum{}2 \{y\} \textasciitilde{}\#"
    )
