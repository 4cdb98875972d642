"""The sandwich: the share of samples whose margin exceeds rho, certified from below and attacked from above."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vaerdict.reports.groups import NORMS, STRENGTHS, Group, varying
from vaerdict.reports.rounding import quantile, round_down, round_up
from vaerdict.reports.style import DOUBLE, GREY, SINGLE, colour, style

WIDE_SPAN = 20.0
"""Positive margins that span more than this factor are drawn on a logarithmic axis."""

_LINES = {"proved": "-", "numerical": "-", "statistical": "-."}
_WIDTHS = {"proved": 2.0, "numerical": 1.3, "statistical": 1.3}
_ATTACKED = (0, (3.2, 1.6))
_GHOST = "#d4d7dc"


@dataclass(frozen=True)
class Axis:
    """The horizontal axis that panels share: from `low` to `high` in pixel units, logarithmic or not."""

    low: float
    high: float
    log: bool

    def fraction(self, rho: float) -> float:
        """Give how far along the axis a radius lies, 0 at the left end."""
        if self.log:
            return math.log(rho / self.low) / math.log(self.high / self.low)
        return (rho - self.low) / (self.high - self.low)


def axis(margins: Sequence[float]) -> Axis:
    """Choose the axis from the margins: logarithmic where the positive ones span a factor above `WIDE_SPAN`.

    >>> axis([0.0, 0.1, 0.4, float("inf")]).log, axis([0.001, 0.4]).log
    (False, True)
    """
    values = np.asarray([margin for margin in margins if np.isfinite(margin) and margin > 0])
    if not len(values):
        return Axis(0.0, 1.0, False)
    if values.max() > WIDE_SPAN * values.min():
        return Axis(float(values.min()) / 1.8, float(values.max()) * 1.6, True)
    return Axis(0.0, float(values.max()) * 1.12, False)


def exceeding(margins: Sequence[float], within: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Give the steps `(rho, share of margins > rho)` between the ends of an axis; infinite margins never fall.

    >>> rho, share = exceeding([0.0, 0.2, 0.4, float("inf")], Axis(0.0, 1.0, False))
    >>> rho.tolist(), share.tolist()
    ([0.0, 0.2, 0.4, 1.0], [0.75, 0.5, 0.25, 0.25])
    """
    values = np.asarray(margins, dtype=float)
    inside = np.unique(values[(values > within.low) & (values < within.high)])
    rho = np.concatenate([[within.low], inside, [within.high]])
    return rho, _shares(margins, rho)


def figure_sandwich(found: list[Group]) -> Figure:
    """Draw one panel per model and question, the other models' certified curves in grey behind.

    Where a group has certificates and attacks, both curves are over the samples that have both.

    >>> [len(figure_sandwich([]).axes)]
    [1]
    """
    found = sorted(found, key=lambda group: (repr(group.topic), group.label))
    columns = min(max(len({group.label for group in found}), 1), 3)
    rows = -(-max(len(found), 1) // columns)
    size = (SINGLE if columns == 1 else DOUBLE, 2.2 * rows + 0.45)
    labels = sorted({group.label for group in found})
    within = {norm: axis(_margins([group for group in found if group.norm == norm])) for norm in NORMS}
    with style():
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
        for panel, group in zip(panels, found, strict=False):
            others = [other for other in found if other.topic == group.topic and other is not group]
            _ghosts(panel, others, within[group.norm])
            _panel(panel, group, within[group.norm], colour(labels.index(group.label)), varying(found))
        for panel in list(figure.axes)[len(found) :]:
            panel.set_axis_off()
        for panel in list(figure.axes)[::columns]:
            panel.set_ylabel(r"share with margin $> \rho$")
        _legend(figure, found, 4 if columns > 1 else 2)
    return figure


def is_logarithmic(found: list[Group]) -> bool:
    """Say whether any panel of the sandwich has a logarithmic axis, for its caption.

    >>> is_logarithmic([])
    False
    """
    return any(axis(_margins([group for group in found if group.norm == norm])).log for norm in NORMS)


def common(group: Group, strength: str) -> tuple[list[float], list[float]]:
    """Give certified and attacked margins to draw: of the samples that have both, or of all when one side is absent.

    >>> import pandas as pd
    >>> facts = {"norm": "2", "r": 1.5, "r_relative": None, "p": 0.5, "reconstruction": "mean", "dataset": "digits"}
    >>> rows = {"sample_id": [1, 2], "sample_sha256": ["a", "b"], "certified": [0.1, 0.2], "attacked": [None, 0.5]}
    >>> common(Group(label="a", rows=pd.DataFrame({**rows, "strength": "proved"}), **facts), "proved")
    ([0.2], [0.5])
    """
    certified, attacked = group.certified(strength), group.attacked()
    both = set(certified["sample_sha256"]) & set(attacked["sample_sha256"])
    if both:
        certified, attacked = (side[side["sample_sha256"].isin(both)] for side in (certified, attacked))
    return certified["certified"].tolist(), attacked["attacked"].tolist()


def _margins(found: list[Group]) -> list[float]:
    return [value for group in found for side in ("certified", "attacked") for value in group.rows[side].dropna()]


def _ghosts(panel: Axes, others: list[Group], within: Axis) -> None:
    for group in others:
        for margins, dashes in zip(common(group, _strongest(group)), ("-", _ATTACKED), strict=True):
            if len(margins):
                steps = exceeding(margins, within)
                panel.plot(*steps, color=_GHOST, lw=0.8, ls=dashes, drawstyle="steps-post", zorder=1)


def _strongest(group: Group) -> str:
    return next((strength for strength in STRENGTHS if len(group.certified(strength))), STRENGTHS[0])


def _panel(panel: Axes, group: Group, within: Axis, ink: str, said: list[str]) -> None:
    certified, attacked = common(group, _strongest(group))
    if len(certified) and len(attacked):
        _band(panel, certified, attacked, within, ink)
    for row, strength in enumerate(strength for strength in STRENGTHS if len(group.certified(strength))):
        _certified(panel, common(group, strength)[0], within, ink, strength, row)
    if len(attacked):
        _attacked(panel, attacked, within, ink)
    _frame(panel, group, within, said)


def _certified(panel: Axes, margins: list[float], within: Axis, ink: str, strength: str, row: int) -> None:
    steps = exceeding(margins, within)
    panel.plot(*steps, color=ink, ls=_LINES[strength], lw=_WIDTHS[strength], drawstyle="steps-post", zorder=3)
    median = quantile(margins, Fraction(1, 2))
    if median:  # A label of zero beside the axis would read as one of its ticks.
        _median(panel, float(median), 0.03 + 0.19 * row, round_down(median), within, ink)


def _attacked(panel: Axes, margins: list[float], within: Axis, ink: str) -> None:
    rho, share = exceeding(margins, within)
    panel.plot(rho, share, color=ink, ls=_ATTACKED, lw=1.3, drawstyle="steps-post", zorder=3)
    median = quantile(margins, Fraction(1, 2))
    if np.isfinite(float(median)):
        _median(panel, float(median), 0.28, round_up(median), within, ink)
    unbroken = int(np.isinf(margins).sum())
    if unbroken:
        panel.set_title(f"{unbroken}/{len(margins)} unbroken", loc="right", fontsize=7, color=ink)


def _band(panel: Axes, certified: list[float], attacked: list[float], within: Axis, ink: str) -> None:
    rho = np.union1d(exceeding(certified, within)[0], exceeding(attacked, within)[0])
    low, high = (_shares(margins, rho) for margins in (certified, attacked))
    panel.fill_between(rho, low, high, step="post", color=ink, alpha=0.13, lw=0, zorder=2)


def _shares(margins: Sequence[float], rho: np.ndarray) -> np.ndarray:
    return (len(margins) - np.searchsorted(np.sort(margins), rho, side="right")) / len(margins)


def _median(panel: Axes, median: float, height: float, text: str, within: Axis, ink: str) -> None:
    place = max(median, within.low)
    panel.plot([place, place], [0, 0.5], color=ink, lw=0.5, ls=":", zorder=2)
    panel.plot([place], [0.5], "o", ms=2.6, color=ink, zorder=4)
    # At the left edge there is no room for a number on the left of its line.
    crowded = within.fraction(place) < 0.06
    panel.annotate(
        text, (place, height), (1.5 if crowded else -1.5, 0), textcoords="offset points", rotation=90,
        ha="left" if crowded else "right", va="bottom", fontsize=7, color=ink, zorder=5,
    )  # fmt: skip


def _frame(panel: Axes, group: Group, within: Axis, said: list[str]) -> None:
    if within.log:
        panel.set_xscale("log")
    panel.set_xlim(within.low, within.high)
    panel.set_ylim(0, 1.03)
    unit = "number" if group.norm.startswith("0") else "pixel units"
    panel.set_xlabel(rf"$\rho$ ({NORMS[group.norm]}, {unit})")
    panel.set_title(_title(group, said), loc="left")


def _legend(figure: Figure, found: list[Group], columns: int) -> None:
    held = [strength for strength in STRENGTHS if any(len(group.certified(strength)) for group in found)]
    lines = [
        Line2D([], [], color=GREY, ls=_LINES[strength], lw=_WIDTHS[strength], label=f"certified ({strength})")
        for strength in held
    ]
    if any(len(group.attacked()) for group in found):
        lines.append(Line2D([], [], color=GREY, ls=_ATTACKED, lw=1.3, label="attacked"))
    if len(found) > len({group.topic for group in found}):
        lines.append(Line2D([], [], color=_GHOST, lw=0.8, label="other models"))
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=columns, handlelength=2.4)


def _title(group: Group, said: list[str]) -> str:
    facts = {name: getattr(group, name) for name in said if name != "norm"}
    shown = [f"{name} = {value:.3g}" if isinstance(value, float) else str(value) for name, value in facts.items()]
    return group.label.replace("$", r"\$") + (f"  ({', '.join(shown)})" if shown else "")
