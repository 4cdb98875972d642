import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags in order, the text, and whether every tag that opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(full_report: Path) -> Page:
    parsed = Page()
    parsed.feed((full_report / "report.html").read_text())
    parsed.close()
    return parsed


def test_every_tag_closes_and_no_id_is_used_twice(page: Page) -> None:
    assert not page.open
    ids = [facts["id"] for _, facts in page.tags if "id" in facts]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(full_report: Path, page: Page) -> None:
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", (full_report / "report.html").read_text())
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object"} & set(names)
    references = [facts.get(key) for _, facts in page.tags for key in ("src", "href", "xlink:href") if key in facts]
    assert all(str(reference).startswith(("#", "data:image/png;base64,")) for reference in references)


def test_the_page_says_what_was_found(page: Page) -> None:
    text = " ".join(" ".join(page.words).split())
    for said in (
        "lipschitz", "plain_vae", "r = 1.2 pixel units (0.25 of the median distance)", "every L2 perturbation",
        "100% & <b>", "first_order", "worst of all", "120 certificates were held", "1" * 64,
    ):  # fmt: skip
        assert said in text
    captions = re.findall(r"(Figure|Table) (\d+)\.", text)
    assert [int(number) for kind, number in captions if kind == "Figure"] == [1, 2, 3]
    assert [int(number) for kind, number in captions if kind == "Table"] == [1, 2, 3, 4, 5, 6]


def test_figures_are_named_for_readers_of_screens(page: Page) -> None:
    figures = [facts for tag, facts in page.tags if tag == "svg"]
    assert len(figures) == 3
    assert all(facts["role"] == "img" and facts["aria-label"] for facts in figures)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_chromium_draws_the_page(full_report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --hide-scrollbars "
        f"--window-size=1100,2400 --screenshot={shot}"
    )
    address = (full_report / "report.html").as_uri()
    subprocess.run([str(CHROMIUM), *flags.split(), address], capture_output=True, timeout=120, check=True)
    with Image.open(shot) as picture:
        assert picture.size == (1100, 2400)
        pixels = np.asarray(picture.convert("RGB"))
    colours = {tuple(colour) for colour in pixels[::3, ::3].reshape(-1, 3).tolist()}
    assert len(colours) > 200
    blue, orange = (0, 114, 178), (213, 94, 0)
    assert {blue, orange} <= {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
