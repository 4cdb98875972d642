"""The designer's frontier: the largest product of Lipschitz constants for each standard deviation."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vaerdict.reports import cells
from vaerdict.reports.rounding import round_down
from vaerdict.reports.style import GREY, PALETTE, SINGLE, render, style

DESIGN_FILE = "design.json"

DIGITS = 5
"""Digits to which a constant is written, rounded down."""

_BOUNDS = {
    "a_isotropic": ("isotropic (exact)", PALETTE[0], "-", "o"),
    "a_barrett": ("Barrett et al.", PALETTE[1], "--", "s"),
}


def table_frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Write each point of a frontier, constants rounded down so that each still promises what is asked.

    Args:
        points: columns `sigma`, `b`, `a_barrett`, `a_isotropic`, one row per standard deviation.

    >>> point = {"sigma": 0.1, "b": 2.0, "a_barrett": 5.12345678, "a_isotropic": 7.5}
    >>> table_frontier(pd.DataFrame([point])).iloc[0].tolist()
    ['0.1', '5.1234', '7.5000', '15.000', '1.46']
    """
    rows = zip(*(points[name].tolist() for name in ("sigma", "b", "a_barrett", "a_isotropic")), strict=True)
    return pd.DataFrame(
        [
            {
                "sigma": repr(sigma),
                "a (Barrett)": round_down(theirs, DIGITS),
                "a (isotropic)": round_down(ours, DIGITS),
                "a*b": round_down(ours * b, DIGITS),
                "gain": round_down(ours / theirs, 3) if theirs else None,
            }
            for sigma, b, theirs, ours in rows
        ],
        dtype=object,
    )


def figure_frontier(
    curve: pd.DataFrame, points: pd.DataFrame, chosen: Mapping[str, float], question: Mapping[str, float]
) -> Figure:
    """Draw `a b` (up) against `sigma` (across) for both bounds, the points as markers, the chosen one ringed.

    Args:
        curve: as `points`, dense enough to be joined.
        points: the table's points, as `table_frontier` takes them.
        chosen: `sigma`, `a` and `b` of the one to train.
        question: `r`, `p`, `margin` and `latent`.

    >>> point = pd.DataFrame([{"sigma": 0.1, "b": 2.0, "a_barrett": 5.0, "a_isotropic": 7.5}])
    >>> ask = {"r": 8.0, "p": 0.5, "margin": 0.3, "latent": 10}
    >>> figure_frontier(point, point, {"sigma": 0.1, "a": 7.5, "b": 2.0}, ask).axes[0].get_xscale()
    'log'
    """
    with style():
        figure = Figure(figsize=(SINGLE, 2.55), layout="constrained")
        panel = figure.subplots()
        limit = question["r"] / question["margin"]
        panel.axhline(limit, color=GREY, lw=0.8, ls=":", label=r"no noise: $r$ / margin", zorder=1)
        for name, (label, ink, dashes, marker) in _BOUNDS.items():
            panel.plot(curve["sigma"], curve[name] * curve["b"], color=ink, ls=dashes, lw=1.3, zorder=2)
            panel.plot(points["sigma"], points[name] * points["b"], marker, color=ink, ms=3, zorder=3)
            panel.plot([], [], color=ink, ls=dashes, lw=1.3, marker=marker, ms=3, label=label)
        _ring(panel, chosen)
        _frame(panel, curve, limit, question, float(chosen["b"]))
    return figure


def _ring(panel: Axes, chosen: Mapping[str, float]) -> None:
    product = chosen["a"] * chosen["b"]
    label = rf"chosen: $\sigma$ = {chosen['sigma']!r}, $ab$ = {round_down(product)}"
    panel.plot([chosen["sigma"]], [product], "o", ms=8, mfc="none", mec="black", mew=0.9, label=label, zorder=4)


def _frame(panel: Axes, curve: pd.DataFrame, limit: float, question: Mapping[str, float], b: float) -> None:
    panel.set_xscale("log")
    low, high = curve["sigma"].min(), curve["sigma"].max()
    if low < high:
        panel.set_xlim(low, high)
    decades = np.log10(high / low)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(0, 1.06 * limit)
    panel.set_xlabel(rf"posterior standard deviation $\sigma$ (latent units, $b$ = {b:g})")
    panel.set_ylabel(r"budget $a\,b$ (pixel units out per in)")
    facts = [f"{name} = {question[key]:g}" for name, key in (("$r$", "r"), ("margin", "margin"), ("$p$", "p"))]
    panel.set_title(", ".join([*facts, f"{question['latent']:g} latents"]), loc="left", fontsize=8)
    panel.legend(loc="best", handlelength=2.2, borderaxespad=0.2)


def frontier_files(design: Mapping[str, Any]) -> dict[str, bytes]:
    """Make the files of a design: `design.json`, and its frontier as a figure and as a table for a paper.

    Args:
        design: `question`, `chosen`, `points` and `curve`, the last two as lists of rows.

    >>> point = {"sigma": 0.1, "b": 2.0, "a_barrett": 5.0, "a_isotropic": 7.5}
    >>> ask = {"r": 8.0, "p": 0.5, "margin": 0.3, "latent": 10}
    >>> chosen = {"sigma": 0.1, "a": 7.5, "b": 2.0}
    >>> sorted(frontier_files({"question": ask, "chosen": chosen, "points": [point], "curve": [point]}))
    ['design.json', 'frontier.csv', 'frontier.pdf', 'frontier.png', 'frontier.tex']
    """
    points, curve = pd.DataFrame(design["points"]), pd.DataFrame(design["curve"])
    table = table_frontier(points)
    figure = figure_frontier(curve, points, design["chosen"], design["question"])
    held = {**design, "table": table.to_dict("records")}
    return {
        "frontier.pdf": render(figure, "pdf"),
        "frontier.png": render(figure, "png"),
        "frontier.csv": cells.csv(table).encode(),
        "frontier.tex": cells.latex(table).encode(),
        DESIGN_FILE: (json.dumps(held, indent=2, allow_nan=False) + "\n").encode(),
    }
