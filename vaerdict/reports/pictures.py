"""The picture grid: what an attack does to inputs and to their reconstructions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vaerdict.reports.groups import labelled
from vaerdict.reports.rounding import round_up
from vaerdict.reports.style import DOUBLE, style
from vaerdict.reports.witnesses import Witness, cited

MOST = 6
_ROWS = {
    "image": "original",
    "reconstruction": "its\nreconstruction",
    "adversarial": "attacked\ninput",
    "adversarial_reconstruction": "its\nreconstruction",
}
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One column of the grid: a model, a sample, the norm of the change and the witness that shows it."""

    label: str
    sample_id: int
    norm: str
    witness: Witness


def choose(table: pd.DataFrame, witnesses: dict[str, Witness], most: int = MOST) -> list[Picture]:
    """Choose the columns: for each model as many samples, spread evenly from its smallest to its largest margin.

    >>> from vaerdict import results
    >>> choose(results.frame([]), {})
    []
    """
    rows = cited(labelled(table))
    rows = rows[np.isfinite(rows["margin"].fillna(np.inf))].sort_values(["margin", "sample_id", "method"])
    labels = sorted(rows["label"].unique())[:most]
    chosen = []
    for label in labels:
        held = rows[rows["label"] == label].drop_duplicates("sample_id")
        places = np.unique(np.linspace(0, len(held) - 1, most // len(labels)).round().astype(int))
        chosen += [
            Picture(label=label, sample_id=int(row.sample_id), norm=str(row.norm), witness=witnesses[str(row.witness)])
            for row in held.iloc[places].itertuples()
        ]
    return chosen


def pixel_range(pictures: list[Picture]) -> tuple[float, float]:
    """Give the pixel range to draw with: the smallest usual one that holds every original image, or theirs.

    >>> pixel_range([])
    (0.0, 1.0)
    """
    images = [picture.witness.image for picture in pictures]
    low = min((float(image.min()) for image in images), default=0.0)
    high = max((float(image.max()) for image in images), default=1.0)
    return next(((a, b) for a, b in _RANGES if a <= low and high <= b), (low, high))


def figure_pictures(pictures: list[Picture]) -> Figure:
    """Draw one column per sample: original, its reconstruction, attacked input, its reconstruction.

    >>> len(figure_pictures([]).axes)
    0
    """
    columns = max(len(pictures), 1)
    side = min(0.94, (DOUBLE - 0.85) / columns)
    with style():
        figure = Figure(figsize=(0.85 + side * columns, 4 * side + 0.62))
        if pictures:
            _grid(figure, pictures)
    return figure


def _grid(figure: Figure, pictures: list[Picture]) -> None:
    width, height = figure.get_size_inches()
    edges = {"left": 0.8 / width, "right": 1 - 0.04 / width, "top": 1 - 0.4 / height, "bottom": 0.22 / height}
    grid = figure.subplots(4, len(pictures), squeeze=False, gridspec_kw={**edges, "wspace": 0.06, "hspace": 0.06})
    limits = pixel_range(pictures)
    for column, picture in enumerate(pictures):
        for row, name in enumerate(_ROWS):
            _show(grid[row, column], getattr(picture.witness, name), limits)
        grid[0, column].set_title(f"sample {picture.sample_id}", fontsize=7, pad=2.5)
        grid[3, column].set_xlabel(_change(picture), fontsize=7.5, labelpad=3)
    for row, text in enumerate(_ROWS.values()):
        grid[row, 0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=5, linespacing=0.95)
    _models(figure, list(grid[0]), pictures)


def _show(panel: Axes, pixels: np.ndarray, limits: tuple[float, float]) -> None:
    shares = np.clip((np.moveaxis(pixels, 0, -1) - limits[0]) / (limits[1] - limits[0] or 1.0), 0.0, 1.0)
    colours = shares[..., :3] if shares.shape[-1] >= 3 else shares[..., :1].repeat(3, axis=-1)
    panel.imshow(colours, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set(visible=True, color="#c5c9d0", linewidth=0.5)


def _change(picture: Picture) -> str:
    norm = r"\infty" if picture.norm == "inf" else picture.norm.removesuffix("-values")
    return rf"$\Vert\delta\Vert_{{{norm}}} = {round_up(picture.witness.distance)}$"


def _models(figure: Figure, top: list[Axes], pictures: list[Picture]) -> None:
    height = figure.get_size_inches()[1]
    for label in dict.fromkeys(picture.label for picture in pictures):
        held = [panel.get_position() for panel, picture in zip(top, pictures, strict=True) if picture.label == label]
        low, high, place = held[0].x0, held[-1].x1, 1 - 0.2 / height
        line = Line2D([low, high], [place, place], color="#c5c9d0", lw=0.8, transform=figure.transFigure)
        figure.add_artist(line)
        figure.text((low + high) / 2, place + 0.03 / height, label.replace("$", r"\$"), ha="center", fontsize=9)
