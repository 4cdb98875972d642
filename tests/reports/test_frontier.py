"""The frontier as drawn and as written is the one that was computed, rounded down."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from vaerdict.reports.frontier import figure_frontier, frontier_files, table_frontier
from vaerdict.reports.style import SINGLE

ASK = {"r": 8.0, "p": 0.5, "margin": 0.25, "latent": 10}
CHOSEN = {"sigma": 0.1, "a": 6.129, "b": 2.0}


def rows(sigmas: list[float]) -> list[dict[str, float]]:
    return [{"sigma": s, "b": 2.0, "a_barrett": 1 / (0.08 + s), "a_isotropic": 1 / (0.0631 + s)} for s in sigmas]


def drawn(sigmas: list[float]) -> Figure:
    curve = np.geomspace(min(sigmas) / 1.5, max(sigmas) * 1.5, 20).tolist()
    return figure_frontier(pd.DataFrame(rows(curve)), pd.DataFrame(rows(sigmas)), CHOSEN, ASK)


@given(st.floats(1e-3, 10), st.floats(0.1, 10), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_no_written_constant_is_larger_than_the_promised_one(
    b: float, sigma: float, theirs: float, ours: float
) -> None:
    point = {"sigma": sigma, "b": b, "a_barrett": theirs, "a_isotropic": ours}
    [row] = table_frontier(pd.DataFrame([point])).to_dict("records")
    assert float(row["sigma"]) == sigma
    for name, value in {"a (Barrett)": theirs, "a (isotropic)": ours, "a*b": ours * b}.items():
        assert value * (1 - 1e-3) < float(row[name]) <= value


def test_a_bound_without_a_constant_has_no_gain() -> None:
    points = pd.DataFrame([{"sigma": 0.1, "b": 1.0, "a_barrett": a, "a_isotropic": 2.0} for a in (0.0, 1.0)])
    table = table_frontier(points)
    assert table["a (Barrett)"].tolist() == ["0", "1.0000"]
    assert table["gain"].tolist() == [None, "2.00"]


def test_the_figure_shows_both_products_and_the_chosen_point() -> None:
    figure = drawn([0.02, 0.1, 0.2])
    panel = figure.axes[0]
    assert figure.get_size_inches()[0] == SINGLE
    limit, *curves = [
        line for line in panel.lines if line.get_linestyle() in ("-", "--", ":") and len(line.get_xdata())
    ]
    assert limit.get_ydata()[0] == 8.0 / 0.25
    exact, barrett = (np.asarray(line.get_ydata()) for line in curves)
    assert (exact > barrett).all()
    markers = [line for line in panel.lines if line.get_linestyle() == "None"]
    exact, barrett, ring = (np.asarray(line.get_xydata()) for line in markers)
    assert exact == pytest.approx(np.array([[s, 2 / (0.0631 + s)] for s in (0.02, 0.1, 0.2)]))
    assert barrett == pytest.approx(np.array([[s, 2 / (0.08 + s)] for s in (0.02, 0.1, 0.2)]))
    assert ring.tolist() == [[0.1, 2 * 6.129]]


def test_the_words_come_from_the_data_and_round_down() -> None:
    panel = drawn([0.1]).axes[0]
    assert panel.get_title(loc="left") == "$r$ = 8, margin = 0.25, $p$ = 0.5, 10 latents"
    assert "$b$ = 2)" in panel.get_xlabel()
    said = [text.get_text() for text in panel.get_legend().get_texts()]
    assert said[-1] == r"chosen: $\sigma$ = 0.1, $ab$ = 12.2"


@pytest.mark.parametrize(("sigmas", "ticks"), [([0.02, 0.2], ["0.02", "0.05", "0.1", "0.2"]), ([1e-4, 10.0], ["0.01"])])
def test_ticks_can_be_read(sigmas: list[float], ticks: list[str]) -> None:
    panel = drawn(sigmas).axes[0]
    low, high = panel.get_xlim()
    assert low < min(sigmas) < max(sigmas) < high
    places = [place for place in panel.get_xticks() if low <= place <= high]
    said = panel.xaxis.get_major_formatter().format_ticks(places)
    assert 3 <= len(said) <= 7
    assert set(ticks) <= set(said)


def test_equal_designs_give_equal_files_and_the_file_holds_the_table() -> None:
    design: dict[str, Any] = {"question": ASK, "chosen": CHOSEN, "points": rows([0.1, 0.2]), "curve": rows([0.1, 0.2])}
    files = frontier_files(design)
    assert files == frontier_files(design)
    held = json.loads(files["design.json"])
    assert held["table"] == table_frontier(pd.DataFrame(design["points"])).to_dict("records")
    assert {name: held[name] for name in design} == design
    assert b"/Type3" not in files["frontier.pdf"]
    assert files["frontier.png"][1:4] == b"PNG"
    assert files["frontier.csv"].decode().splitlines()[1].startswith("0.1,5.5555,6.1312,12.262,")
    assert r"0.1 & 5.5555 & 6.1312 & 12.262" in files["frontier.tex"].decode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        frontier_files({**design, "chosen": {**CHOSEN, "extra": float("nan")}})
