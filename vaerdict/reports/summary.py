"""The table of a run for a terminal."""

import textwrap
from collections.abc import Iterator

import pandas as pd

from vaerdict.reports.cells import Spread, plain
from vaerdict.reports.groups import NORMS, STRENGTHS, Group, groups
from vaerdict.reports.rounding import rounded
from vaerdict.results import one_per_question

WIDTH = 100
_LABEL = 20


def summary(table: pd.DataFrame) -> str:
    """Give the medians of certified and attacked margins and of their ratio as text of at most 100 columns.

    Certified margins and ratios are rounded down, attacked margins up; brackets hold the quartiles over samples.

    >>> from vaerdict import results
    >>> summary(results.frame([]))
    'No certified or attacked margin: nothing to compare.'
    """
    found = groups(one_per_question(table))
    if not found:
        return "No certified or attacked margin: nothing to compare."
    topics = sorted({group.topic for group in found}, key=repr)
    held = [[group for group in found if group.topic == topic] for topic in topics]
    return "\n".join(line for part in held for kind in _kinds(part) for line in _block(part, kind)).rstrip()


def _kinds(held: list[Group]) -> list[str]:
    return [kind for kind in STRENGTHS if any(len(group.certified(kind)) for group in held)] or [""]


def _block(held: list[Group], kind: str) -> Iterator[str]:
    certified = f"certified ({kind})" if kind else "certified"
    yield f"{'model':<{_LABEL}} {'r':>6} {'n':>5}  {certified:<27} {'attacked':<27} ratio"
    yield from (_line(group, kind) for group in held)
    yield from textwrap.wrap(_meaning(held[0]), WIDTH)
    yield ""


def _line(group: Group, kind: str) -> str:
    rows, attacked = group.certified(kind), group.attacked()
    label = group.label if len(group.label) <= _LABEL else group.label[: _LABEL - 1] + "…"
    sides = [Spread.of(rows["certified"], "down"), Spread.of(attacked["attacked"], "up")]
    shown = " ".join(f"{plain(side):<27}" for side in sides)
    ratio = Spread.of(rows["ratio"], "down")
    last = plain(ratio.parts()[0] if ratio else None)
    return f"{label:<{_LABEL}} {rounded(group.r, 'nearest'):>6} {len(rows) or len(attacked):>5}  {shown} {last}"


def _meaning(group: Group) -> str:
    relative = (
        ""
        if group.r_relative is None
        else f", {group.r_relative:.3g} of the median distance between reconstructions of different images"
    )
    return (
        f"{group.dataset}, {NORMS[group.norm]}, {group.reconstruction} reconstruction, p = {group.p:.4g}, r in pixel "
        f"units{relative}; median [lower, upper quartile]; certified and ratio rounded down, attacked up."
    )
