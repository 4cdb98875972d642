"""The page: one HTML file that needs no network and no script."""

from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vaerdict.reports.cells import Spread, is_number, plain


def page(facts: dict[str, Any]) -> str:
    """Fill the template; text is escaped, figures are `Markup`.

    Raises:
        jinja2.UndefinedError: a fact that the template needs is missing.

    >>> page({})
    Traceback (most recent call last):
    jinja2.exceptions.UndefinedError: 'models' is undefined
    """
    environment = Environment(
        loader=PackageLoader("vaerdict.reports", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(facts)


def table_html(table: pd.DataFrame) -> Markup:
    """Give a table as HTML, its text escaped; quartiles stand smaller beside their median.

    >>> str(table_html(pd.DataFrame({"a<b": ["x"]})))
    '<table><thead><tr><th scope="col">a&lt;b</th></tr></thead><tbody><tr><td>x</td></tr></tbody></table>'
    """
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in table.columns)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell) for cell in row))
        for row in table.itertuples(index=False, name=None)
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)


def _cell(cell: object) -> Markup:
    if isinstance(cell, Spread):
        median, _, rest = plain(cell).partition(" ")
        return Markup('<td class="number">{} <small>{}</small></td>').format(median, rest)
    return Markup('<td class="number">{}</td>' if is_number(cell) else "<td>{}</td>").format(plain(cell))
