"""How figures look and how they become files: venue widths, fonts that print, the same bytes for the same rows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.25, 6.75
"""Widths in inches of one column and of two."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, told apart by colour-blind readers."""

GREY = "#6b7280"

_RC: Any = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "vaerdict",
    "savefig.dpi": 300,
}

_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Use the report's typography inside the block only.

    >>> with style():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    with matplotlib.rc_context(_RC):
        yield


def render(figure: Figure, kind: Literal["pdf", "png", "svg"]) -> bytes:
    """Give a figure's file, without dates or names of programs, so that equal rows give equal bytes.

    >>> render(Figure(figsize=(1, 1)), "png")[1:4]
    b'PNG'
    """
    sink = BytesIO()
    with style():
        figure.savefig(sink, format=kind, metadata=_METADATA[kind])
    return sink.getvalue()


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Give a figure as an `<svg>` element to stand in a page: named for readers of screens, its ids its own.

    >>> inline_svg(Figure(figsize=(1, 1)), "empty", "nothing")[:43]
    '<svg role="img" aria-label="nothing" xmlns:'
    """
    text = render(figure, "svg").decode()
    body = text[text.index("<svg") + len("<svg") :]
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'((?:xlink:)?href=")#', rf"\1#{name}-", body)
    body = body.replace("url(#", f"url(#{name}-")
    safe = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg role="img" aria-label="{safe}"{body}'.strip()


def colour(position: int) -> str:
    """Give the colour of a model by its place among the models.

    >>> colour(0) == colour(6)
    True
    """
    return PALETTE[position % len(PALETTE)]
