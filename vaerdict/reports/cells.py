"""What may stand in a cell of a table, and how it is written as CSV, LaTeX and HTML."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from vaerdict.reports.rounding import INFINITE, Direction, quantile, rounded

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"\ensuremath{\infty}",
    "\N{GREEK SMALL LETTER RHO}": r"\ensuremath{\rho}",
    "\N{EN DASH}": "--",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "≤": r"\ensuremath{\le}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}
_POWER = re.compile(r"\b(\d(?:\.\d+)?)e\+?(-?)0*(\d+)\b")
_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?")
_LONG = 25
_FITS = r"% booktabs; fits 487 pt, the text width of two columns (table*), at \small"
_GAP = r"@{\hspace{6pt}}"
_SHORT = {"unsupported": "unsupp.", "forward": "fwd.", "backward": "bwd.", "reconstruction": "reconstr."}
_OF = re.compile(r"(.+) \((proved|numerical|statistical)\)")
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Spread:
    """The median of a quantity over samples, between its quartiles, rounded as its meaning asks."""

    median: float | Fraction
    low: float | Fraction
    high: float | Fraction
    direction: Direction

    @classmethod
    def of(cls, values: Iterable[float], direction: Direction) -> "Spread | None":
        """Summarise the values that are there; None when none is.

        >>> str(Spread.of([0.1, 0.2, 0.3], "down"))
        '0.200 [0.150, 0.250]'
        """
        held = [float(value) for value in values if not pd.isna(value)]
        if not held:
            return None
        low, median, high = (quantile(held, Fraction(quarter, 4)) for quarter in (1, 2, 3))
        return cls(median, low, high, direction)

    def parts(self) -> tuple[str, str, str]:
        """Write the median, the lower and the upper quartile."""
        median, low, high = (rounded(value, self.direction) for value in (self.median, self.low, self.high))
        return median, low, high

    def __str__(self) -> str:
        median, low, high = self.parts()
        return f"{median} [{low}, {high}]"


Cell = Spread | str | int | None


def csv(table: pd.DataFrame) -> str:
    r"""Write a table as CSV: a spread takes three columns, an absent value is empty.

    >>> csv(pd.DataFrame({"model": ["a"], "margin": [Spread(0.1, 0.0, 0.2, "down")]}))
    'model,margin median,margin q25,margin q75\na,0.100,0,0.200\n'
    """
    columns: dict[str, list[str]] = {}
    for name, cells in table.items():
        if any(isinstance(cell, Spread) for cell in cells):
            parts = [cell.parts() if isinstance(cell, Spread) else ("", "", "") for cell in cells]
            columns |= {f"{name} {part}": [p[i] for p in parts] for i, part in enumerate(("median", "q25", "q75"))}
        else:
            columns[str(name)] = ["" if cell is None else str(cell) for cell in cells]
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def latex(table: pd.DataFrame) -> str:
    r"""Write a table as a bare booktabs `tabular`, every text escaped, below a comment that says its width.

    >>> print(latex(pd.DataFrame({"model": ["a_b"]})).splitlines()[5])
    a\_b \\
    """
    cells = [[_cell(cell) for cell in row] for row in table.itertuples(index=False, name=None)]
    written = pd.DataFrame(cells, columns=_heads([str(name) for name in table.columns]), dtype=object)
    layout = _GAP.join(_layout(table[name]) for name in table.columns)
    styler = written.style.hide(axis="index")
    return f"{_FITS}\n" + styler.to_latex(hrules=True, column_format=f"@{{}}{layout}@{{}}", multicol_align="c")


def _cell(cell: object) -> str:
    if not isinstance(cell, Spread):
        return escape_latex(plain(cell))
    median, _, quartiles = plain(cell).partition(" ")
    return _stack(escape_latex(median), rf"\scriptsize {escape_latex(quartiles)}\rule[-5pt]{{0pt}}{{0pt}}", "t")


def _stack(upper: str, lower: str, place: str) -> str:
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}{upper} \\[-2pt] {lower}\end{{tabular}}"


def _heads(names: list[str]) -> pd.Index:
    """Name the columns; neighbours that end in the same strength share a heading above them."""
    parts = [_OF.fullmatch(name) for name in names]
    tops = [part[2] if part else "" for part in parts]
    grouped = all(tops[i] in (tops[i - 1 : i] + tops[i + 1 : i + 2]) for i, top in enumerate(tops) if top)
    if not any(tops) or not grouped:
        return pd.Index([_head(name) for name in names])
    lower = [_head(part[1] if part else name) for part, name in zip(parts, names, strict=True)]
    return pd.MultiIndex.from_arrays([tops, lower])


def _head(name: str) -> str:
    if part := _OF.fullmatch(name):
        return _stack(escape_latex(part[1]), f"({part[2]})", "b")
    return f"${name}$" if len(name) == 1 and name.isascii() else escape_latex(_SHORT.get(name, name))


def escape_latex(text: str) -> str:
    r"""Escape what LaTeX would read as a command; powers of ten and infinity become mathematics.

    >>> escape_latex("50 % of a_b"), escape_latex("1.5e-07")
    ('50 \\% of a\\_b', '\\ensuremath{1.5\\times10^{-7}}')
    """
    parts, last = [], 0
    for match in _POWER.finditer(text):
        parts.append(_escaped(text[last : match.start()]))
        parts.append(rf"\ensuremath{{{match[1]}\times10^{{{match[2]}{match[3]}}}}}")
        last = match.end()
    return "".join([*parts, _escaped(text[last:])])


def plain(cell: object) -> str:
    """Write a cell for a reader: absent values are a dash, infinity is its sign.

    >>> plain(None), plain("inf"), plain(3)
    ('–', '∞', '3')
    """
    if cell is None or cell == "":
        return ABSENT
    return re.sub(rf"\b{INFINITE}\b", "∞", str(cell)) if isinstance(cell, Spread) or cell == INFINITE else str(cell)


def is_number(cell: object) -> bool:
    """Say whether a cell holds one number, which a table aligns to the right.

    >>> is_number(3), is_number("2.03e+04"), is_number("v1.2")
    (True, True, False)
    """
    return isinstance(cell, int) or (isinstance(cell, str) and _NUMBER.fullmatch(cell) is not None)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _layout(cells: pd.Series) -> str:
    texts = [cell for cell in cells if isinstance(cell, str) and cell and not is_number(cell)]
    if max((len(text) for text in texts), default=0) > _LONG:
        return r"p{0.22\linewidth}"
    return "l" if texts else "r"
