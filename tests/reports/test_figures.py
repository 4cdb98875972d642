import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests.reports import runs
from vaerdict.reports import figure_sandwich, figure_tightness
from vaerdict.reports.curves import Axis, axis, exceeding
from vaerdict.reports.groups import groups
from vaerdict.reports.pictures import choose, figure_pictures, pixel_range
from vaerdict.reports.style import DOUBLE, SINGLE, inline_svg, render
from vaerdict.reports.witnesses import check_witnesses
from vaerdict.results import Row, frame


def drawn(rows: list[Row]) -> Figure:
    return figure_sandwich(groups(frame(rows)))


def lines(figure: Figure, panel: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    steps = [line for line in figure.axes[panel].lines if line.get_drawstyle() == "steps-post"]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in steps]


@given(st.lists(st.floats(0, 10) | st.just(float("inf")), min_size=1, max_size=20))
def test_a_curve_is_the_share_beyond_each_radius(margins: list[float]) -> None:
    rho, share = exceeding(margins, Axis(0.0, 11.0, False))
    assert share.tolist() == [np.mean(np.asarray(margins) > radius) for radius in rho]
    assert (np.diff(share) <= 0).all()


def test_certified_lies_below_attacked_in_the_figure() -> None:
    figure = drawn(runs.certificates("lipschitz") + runs.attacks("lipschitz"))
    (low, certified), (high, attacked) = lines(figure)
    grid = np.linspace(0, low[-1], 200)
    at = [y[np.searchsorted(x, grid, side="right") - 1] for x, y in ((low, certified), (high, attacked))]
    assert (at[0] <= at[1]).all()
    assert figure.axes[0].get_xscale() == "linear"


def test_curves_are_over_the_samples_that_have_both() -> None:
    figure = drawn(runs.certificates("lipschitz") + runs.attacks("lipschitz")[:4])
    certified, attacked = runs.margins("lipschitz")[0][:4], runs.margins("lipschitz")[1][:4]
    for (rho, _), margins in zip(lines(figure), (certified, attacked), strict=True):
        assert rho[1:-1].tolist() == sorted(margins)


def test_a_wide_span_is_drawn_on_a_logarithmic_axis() -> None:
    assert not axis([0.1, 1.9]).log
    assert axis([0.1, 2.1]).log
    figure = drawn([row for row in runs.full_rows() if row.kind != "estimate"])
    assert [panel.get_xscale() for panel in figure.axes] == ["log", "log"]
    assert figure.get_size_inches()[0] == DOUBLE


def test_equal_margins_make_one_vertical_step() -> None:
    figure = drawn([replace(row, margin=0.3) for row in runs.certificates("lipschitz")])
    ((rho, share),) = lines(figure)
    assert rho[1] == 0.3
    assert share.tolist() == [1.0, 0.0, 0.0]
    assert figure.get_size_inches()[0] == SINGLE


def test_unbroken_samples_stay_to_the_right_edge_and_are_counted() -> None:
    figure = drawn(runs.attacks("lipschitz", unbroken=5))
    ((rho, share),) = lines(figure)
    assert (rho[-1], share[-1]) == (figure.axes[0].get_xlim()[1], 5 / 40)
    assert figure.axes[0].get_title(loc="right") == "5/40 unbroken"


def test_zero_certificates_start_below_one() -> None:
    rows = [replace(row, margin=0.0) if row.sample_id < 10 else row for row in runs.certificates("lipschitz")]
    assert lines(drawn(rows))[0][1][0] == 0.75


def test_medians_are_written_outwards() -> None:
    figure = drawn(runs.certificates("lipschitz") + runs.attacks("lipschitz"))
    certified, attacked = (float(text.get_text()) for text in figure.axes[0].texts)
    assert certified <= np.median(runs.margins("lipschitz")[0]) < certified * 1.01
    assert attacked * 0.99 < np.median(runs.margins("lipschitz")[1]) <= attacked


def test_a_median_of_zero_has_no_label() -> None:
    rows = [replace(row, margin=0.0) for row in runs.certificates("lipschitz")]
    assert [text.get_text() for text in drawn(rows + runs.attacks("lipschitz")).axes[0].texts] == ["0.997"]


@pytest.mark.parametrize(("models", "there"), [(["lipschitz"], False), (list(runs.SHA), True)])
def test_curves_of_other_models_are_in_the_legend(models: list[str], there: bool) -> None:
    figure = drawn([row for model in models for row in runs.certificates(model)])
    assert ("other models" in [text.get_text() for text in figure.legends[0].get_texts()]) is there


def test_every_point_of_the_scatter_lies_on_or_above_the_diagonal() -> None:
    figure = figure_tightness(groups(frame(runs.full_rows())))
    points = np.concatenate([np.asarray(part.get_offsets()) for part in figure.axes[0].collections[1:]])
    assert len(points) == 3 * runs.SAMPLES
    assert (points[:, 0] <= points[:, 1]).all()


def test_pictures_are_spread_over_the_margins_of_each_model(full_run: Path) -> None:
    table = frame(runs.with_witnesses(full_run, runs.full_rows()))
    pictures = choose(table, check_witnesses(full_run, table))
    order = np.argsort(runs.margins("lipschitz")[1])
    middle = order[round((runs.SAMPLES - 1) / 2)]
    assert [picture.sample_id for picture in pictures[:3]] == [order[0], middle, order[-1]]
    assert [picture.label for picture in pictures] == ["lipschitz"] * 3 + ["plain_vae"] * 3
    assert pixel_range(pictures) == (0.0, 1.0)
    figure = figure_pictures(pictures)
    assert len(figure.axes) == 24
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown[..., 0] == pytest.approx(pictures[0].witness.image[0])


def test_no_global_setting_changes() -> None:
    before = dict(matplotlib.rcParams)
    render(drawn(runs.certificates("lipschitz")), "pdf")
    assert dict(matplotlib.rcParams) == before


def test_ids_of_two_inline_figures_differ() -> None:
    figure = drawn(runs.certificates("lipschitz"))
    texts = [inline_svg(figure, name, "x") for name in ("one", "other")]
    ids, others = (set(re.findall(r'\bid="([^"]+)"', text)) for text in texts)
    assert ids
    assert not ids & others
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', texts[0])) <= ids


def _objects(pdf: bytes) -> bytes:
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, flags=re.DOTALL)
    inflated = [zlib.decompressobj().decompress(part) for part in streams if part[:1] == b"x"]
    return b"".join([pdf, *inflated])


@pytest.mark.parametrize("name", ["sandwich", "tightness", "pictures"])
def test_no_type_3_font(full_report: Path, name: str) -> None:
    path = full_report / "figures" / f"{name}.pdf"
    found = _objects(path.read_bytes())
    assert b"/Type3" not in found
    assert b"/CIDFontType2" in found


@pytest.mark.skipif(not shutil.which("pdffonts"), reason="needs pdffonts (poppler-utils)")
def test_pdffonts_finds_embedded_truetype_only(full_report: Path) -> None:
    for path in (full_report / "figures").glob("*.pdf"):
        listed = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
        assert listed
        assert all("TrueType" in line and "Type 3" not in line for line in listed)
