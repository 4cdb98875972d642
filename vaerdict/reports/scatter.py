"""Tightness: each sample's certified margin against its attacked one."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaerdict.reports.curves import WIDE_SPAN
from vaerdict.reports.groups import STRENGTHS, Group
from vaerdict.reports.style import GREY, SINGLE, colour, style

_MARKERS = {"proved": "s", "numerical": "o", "statistical": "^"}


def figure_tightness(found: list[Group]) -> Figure:
    """Draw certified (across) against attacked margins (up) of the samples that have both, with the diagonal.

    Zero and infinite margins are drawn as crosses on the edge of the axes.

    >>> [len(figure_tightness([]).axes)]
    [1]
    """
    labels = sorted({group.label for group in found})
    with style():
        figure = Figure(figsize=(SINGLE, 3.15), layout="constrained")
        panel = figure.subplots()
        low, high, log = _limits(found)
        panel.plot([low, high], [low, high], color=GREY, lw=0.8, zorder=1)
        _guides(panel, low, high, log)
        panel.fill_between([low, high], [low, high], [low, low], color="#f1f2f4", lw=0, zorder=0)
        for label in labels:
            for strength in STRENGTHS:
                held = [group for group in found if group.label == label]
                _points(panel, held, strength, colour(labels.index(label)), (low, high))
        _frame(panel, (low, high), log)
    return figure


def _both(group: Group, strength: str) -> pd.DataFrame:
    rows = group.certified(strength)
    return rows[rows["attacked"].notna()]


def _limits(found: list[Group]) -> tuple[float, float, bool]:
    sides = [_both(group, strength)[["certified", "attacked"]] for group in found for strength in STRENGTHS]
    values = np.concatenate([side.to_numpy(float).ravel() for side in sides] or [np.zeros(0)])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 0.0, 1.0, False
    log = bool(values.max() > WIDE_SPAN * values.min())
    return (values.min() / 1.6, values.max() * 1.6, True) if log else (0.0, values.max() * 1.1, False)


def _guides(panel: Axes, low: float, high: float, log: bool) -> None:
    factors = [factor for factor in (10, 100, 1000) if log and low * factor < high / 2]
    for factor in factors:
        panel.plot([low, high / factor], [low * factor, high], color="#c5c9d0", lw=0.6, ls=":", zorder=1)
        panel.annotate(
            rf"$\times{factor}$", (high / factor, high), (0, 2), textcoords="offset points", ha="center",
            fontsize=6.5, color=GREY,
        )  # fmt: skip


def _points(panel: Axes, held: list[Group], strength: str, ink: str, ends: tuple[float, float]) -> None:
    rows = [_both(group, strength) for group in held]
    pairs = np.concatenate([part[["certified", "attacked"]].to_numpy(float) for part in rows] or [np.zeros((0, 2))])
    if not len(pairs):
        return
    across, up = np.clip(pairs, *ends).T
    edge = (pairs[:, 0] < ends[0]) | (pairs[:, 1] > ends[1])
    label = f"{held[0].label} ({strength})".replace("$", r"\$")
    marker = _MARKERS[strength]
    panel.scatter(across[~edge], up[~edge], s=11, marker=marker, color=ink, alpha=0.65, lw=0, label=label, zorder=3)
    panel.scatter(across[edge], up[edge], s=16, marker="x", color=ink, lw=0.9, zorder=4, clip_on=False)


def _frame(panel: Axes, ends: tuple[float, float], log: bool) -> None:
    if log:
        panel.set_xscale("log")
        panel.set_yscale("log")
    panel.set_xlim(*ends)
    panel.set_ylim(*ends)
    panel.set_aspect("equal")
    panel.set_xlabel("certified margin (pixel units)")
    panel.set_ylabel("attacked margin (pixel units)")
    # No point can lie below the diagonal, so the legend hides none there.
    if panel.get_legend_handles_labels()[1]:
        panel.legend(loc="lower right", handletextpad=0.2, borderaxespad=0.3)
