"""`numbers.tex`: every number that prose may need, as a LaTeX macro, so that none is typed by hand."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from vaerdict.reports.cells import Spread, escape_latex, plain
from vaerdict.reports.groups import NORMS, Group, distinguishing, groups, strengths
from vaerdict.reports.rounding import percent

_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_SIGNS = {**{str(i): word for i, word in enumerate(_DIGITS)}, ".": "Point", "∞": "Inf", "+": "Plus", "-": "Minus"}


def macro_name(*parts: str) -> str:
    r"""Make a macro's name of letters only: words begin with a capital, digits are spelled out.

    Signs that separate words are dropped; other letters than a to z are named by their code point.

    >>> macro_name("beta-VAE 4", "certified median")
    'vaerdictBetaVAEFourCertifiedMedian'
    """
    return "vaerdict" + "".join(_word(piece) for part in parts for piece in _pieces(part))


def numbers(table: pd.DataFrame) -> dict[str, str]:
    r"""Give each macro's name and its text for LaTeX.

    Names are `\vaerdict<Model><Question><Strength><Quantity>`; the question's parts and the strength are named only
    where a run has several.

    Raises:
        ValueError: two quantities would have the same name.

    >>> from vaerdict import results
    >>> numbers(results.frame([]))
    {}
    """
    found = groups(table)
    said, kinds = distinguishing(found), strengths(table)
    macros: dict[str, str] = {}
    for group in found:
        for quantity, text in _quantities(group, kinds):
            name = macro_name(group.label, *_question(group, said), quantity)
            if name in macros:
                raise ValueError(f"expected one number for each macro, got two for \\{name}: rename a model")
            macros[name] = escape_latex(plain(text))
    return macros


def numbers_tex(table: pd.DataFrame) -> str:
    r"""Write the macros as a file to `\input`.

    >>> from vaerdict import results
    >>> numbers_tex(results.frame([])).count("newcommand")
    0
    """
    lines = [rf"\newcommand{{\{name}}}{{{text}}}" for name, text in numbers(table).items()]
    head = "% Written by vaerdict from the rows of a run: certified margins rounded down, attacked margins up.\n"
    return head + "".join(f"{line}%\n" for line in lines)


def _quantities(group: Group, kinds: list[str]) -> Iterator[tuple[str, str]]:
    yield "r", f"{group.r:.4g}"
    if group.r_relative is not None:
        yield "r relative", f"{group.r_relative:.4g}"
    yield "p", f"{group.p:.4g}"
    for kind in kinds:
        rows, said = group.certified(kind), f"{kind} " if len(kinds) > 1 else ""
        yield from _spread(f"{said}certified", Spread.of(rows["certified"], "down"))
        yield from _spread(f"{said}ratio", Spread.of(rows["ratio"], "down"))
        if len(rows):
            yield f"{said}certified share", percent(int((rows["certified"] > 0).sum()), len(rows))
            yield f"{said}certified samples", str(len(rows))
    attacked = group.attacked()["attacked"]
    yield from _spread("attacked", Spread.of(attacked, "up"))
    yield "attacked samples", str(len(attacked))
    yield "unbroken samples", str(int(np.isinf(attacked).sum()))


def _spread(name: str, spread: Spread | None) -> Iterator[tuple[str, str]]:
    if spread is not None:
        texts = (text.replace("inf", "∞") for text in spread.parts())
        yield from zip((f"{name} median", f"{name} lower quartile", f"{name} upper quartile"), texts, strict=True)


def _question(group: Group, said: list[str]) -> Iterator[str]:
    for name in said:
        value = getattr(group, name)
        if name == "r" and group.r_relative is not None:
            yield f"relative r {group.r_relative:.10g}"
            continue
        yield NORMS[value] if name == "norm" else value if isinstance(value, str) else f"{name} {value:.10g}"


def _pieces(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|\d+\.\d+|\d+|[^\W_]|∞", text)


def _word(piece: str) -> str:
    if re.fullmatch(r"[A-Za-z]+", piece):
        return piece[0].upper() + piece[1:]
    return "".join(_SIGNS.get(sign) or "U" + "".join(_DIGITS[int(d)] for d in str(ord(sign))) for sign in piece)
