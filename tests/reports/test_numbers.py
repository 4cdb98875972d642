import re
from dataclasses import replace

import pytest

from tests.reports import runs
from vaerdict.reports.numbers import macro_name, numbers, numbers_tex
from vaerdict.results import frame


def test_names_are_letters_only_and_unique() -> None:
    rows = runs.full_rows()
    rows += [replace(row, p=0.9, norm="inf", reconstruction="mean", r=4.5) for row in rows]
    names = re.findall(r"^\\newcommand\{\\([^}]*)\}", numbers_tex(frame(rows)), flags=re.MULTILINE)
    assert len(names) == len(set(names)) > 60
    assert all(re.fullmatch("[A-Za-z]+", name) for name in names)


def test_values_are_those_of_the_table() -> None:
    rows = runs.certificates("lipschitz") + runs.attacks("lipschitz", unbroken=3)
    rows = [replace(row, margin=0.12345) if row.kind == "certificate" else row for row in rows]
    macros = numbers(frame(rows))
    assert macros["vaerdictLipschitzCertifiedMedian"] == "0.123"
    assert macros["vaerdictLipschitzCertifiedShare"] == "100.0"
    assert macros["vaerdictLipschitzUnbrokenSamples"] == "3"
    assert macros["vaerdictLipschitzR"] == "1.2"


def test_infinite_medians_are_written_as_mathematics() -> None:
    macros = numbers(frame(runs.attacks("lipschitz", unbroken=40)))
    assert macros["vaerdictLipschitzAttackedMedian"] == r"\ensuremath{\infty}"


def test_two_models_whose_macros_would_clash_are_refused() -> None:
    rows = runs.certificates("lipschitz")
    clash = [replace(row, model="lip_schitz", model_sha256="9") for row in rows]
    clash += [replace(row, model="lip-schitz", model_sha256="8") for row in rows]
    with pytest.raises(ValueError, match=r"got two for \\vaerdictLipSchitz"):
        numbers(frame(clash))


def test_digits_and_foreign_letters_are_spelled() -> None:
    assert macro_name("β-VAE 0.5") == "vaerdictUNineFourSixVAEZeroPointFive"
