from dataclasses import replace

from tests.reports import runs
from vaerdict.reports import summary
from vaerdict.results import frame


def test_the_summary_fits_a_terminal_and_holds_the_medians() -> None:
    rows = [replace(row, model=f"{row.model}_with_a_very_long_name") for row in runs.full_rows()]
    lines = summary(frame(rows)).splitlines()
    assert max(map(len, lines)) <= 100
    first = next(line for line in lines if line.startswith("lipschitz"))
    assert first.split()[:4] == ["lipschitz_with_a_ve…", "1.20", "40", "0.311"]
    assert "certified (numerical)" in lines[0]
    assert any("p = 0.5" in line for line in lines)


def test_a_topic_without_certificates_has_one_block() -> None:
    attacks = [replace(row, norm="inf") for row in runs.attacks("plain_vae")]
    text = summary(frame(runs.certificates("plain_vae") + attacks))
    assert text.count("certified (numerical)") == 1
    assert text.count("plain_vae") == 2


def test_small_margins_stay_within_their_columns() -> None:
    rows = [replace(row, margin=(row.margin or 0) * 1e-3) for row in runs.certificates("plain_vae")]
    header, line, *_ = summary(frame(rows + runs.attacks("plain_vae"))).splitlines()
    assert line.index("0.349") == header.index("attacked")
    assert len(line) <= 100


def test_estimates_are_no_certificates() -> None:
    assert summary(frame(runs.estimates("lipschitz"))).startswith("No certified or attacked margin")
