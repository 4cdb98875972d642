"""Rows in, paper out: figures, tables, LaTeX numbers, one HTML file. Imports no torch, no certify, no attacks."""

from vaerdict.reports.build import build_report
from vaerdict.reports.curves import figure_sandwich
from vaerdict.reports.numbers import numbers
from vaerdict.reports.pictures import figure_pictures
from vaerdict.reports.scatter import figure_tightness
from vaerdict.reports.summary import summary
from vaerdict.reports.tables import table_attacks, table_estimates, table_margins, table_methods, table_unsupported

__all__ = [
    "build_report",
    "figure_pictures",
    "figure_sandwich",
    "figure_tightness",
    "numbers",
    "summary",
    "table_attacks",
    "table_estimates",
    "table_margins",
    "table_methods",
    "table_unsupported",
]
