"""The whole report: rows of a run in, a folder for a paper out. Everything is made in memory, then written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from vaerdict import __version__, results
from vaerdict.reports import cells, tables, words
from vaerdict.reports.curves import figure_sandwich, is_logarithmic
from vaerdict.reports.groups import STRENGTHS, Group, groups, strengths, varying
from vaerdict.reports.html import page, table_html
from vaerdict.reports.numbers import numbers_tex
from vaerdict.reports.pictures import choose, figure_pictures, pixel_range
from vaerdict.reports.provenance import checklist, provenance
from vaerdict.reports.scatter import figure_tightness
from vaerdict.reports.style import inline_svg, render
from vaerdict.reports.witnesses import Witness, check_witnesses

_MANIFEST = "provenance.json"
_EXPLAINED = {
    "methods": (
        "Certificate methods",
        "Each method on its own: median and quartiles of its certified margins over images, the share above zero, the "
        "images it did not apply to, and the median time per image.",
    ),
    "attacks": (
        "Attacks at a fixed radius",
        "Damage is the mean L2 distance between the reconstructions of the clean and the attacked input: the largest "
        "that was found, so a lower bound on the worst. Passes and time are medians per image.",
    ),
    "estimates": (
        "Estimates",
        "These numbers prove nothing in either direction; they are shown for comparison and enter no certified column.",
    ),
    "unsupported": ("What did not apply", "Methods that gave no number, with the reason and the number of images."),
}


@dataclass(frozen=True)
class _Drawn:
    figure: Figure
    label: str


def build_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder and give the path of its `report.html`.

    Reads `run/results/**/*.parquet`, the witnesses that the rows name and `run/environment.json` where present; writes
    to `out`, by default `run/report`. What an older report left there and this one does not write is removed.

    Raises:
        FileNotFoundError: the run holds no results.
        ValueError: no part can be read, a witness is damaged (the message names it), or `out` is the run's own folder.
        results.Contradiction: a certificate is larger than an attacked margin.

    >>> build_report(Path("no-such-run"))
    Traceback (most recent call last):
    FileNotFoundError: expected results below no-such-run/results, found no .parquet file
    """
    run = Path(run)
    out = run / "report" if out is None else Path(out)
    if out.resolve() == run.resolve():
        raise ValueError(f"expected a folder of its own for the report, got the run's folder {out}")
    table = results.load(run / "results")
    results.check_contradictions(table)
    files = _files(run, table)
    _write(out, files)
    return out / "report.html"


def _files(run: Path, table: pd.DataFrame) -> dict[str, bytes]:
    witnesses = check_witnesses(run, table)
    facts = provenance(run, table)
    table = results.one_per_question(table)
    made = _tables(table)
    drawn = _figures(table, witnesses)
    files = {f"tables/{name}.{kind}": text.encode() for name, part in made.items() for kind, text in _texts(name, part)}
    for name, item in drawn.items():
        files[f"figures/{name}.pdf"] = render(item.figure, "pdf")
        files[f"figures/{name}.png"] = render(item.figure, "png")
    files |= {_home(name): witness.content for name, witness in witnesses.items()}
    files["numbers.tex"] = numbers_tex(table).encode()
    files["checklist.md"] = checklist(facts).encode()
    files["report.html"] = page(_page(table, made, drawn, witnesses, facts)).encode()
    written = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = json.dumps({**facts, "files": written}, indent=2, ensure_ascii=False, sort_keys=True)
    return {_MANIFEST: (manifest + "\n").encode(), **files}


def _tables(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    made = {"margins": tables.table_margins(table)}
    kinds = strengths(table)
    if len(kinds) > 1:
        made |= {f"margins-{kind}": tables.table_margins(_only(table, kind)) for kind in kinds}
    made["methods"] = tables.table_methods(table)
    made["attacks"] = tables.table_attacks(table)
    made["estimates"] = tables.table_estimates(table)
    made["unsupported"] = tables.table_unsupported(table)
    return {name: part for name, part in made.items() if len(part)}


def _only(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    return table[(table["kind"] != "certificate") | (table["strength"] == kind)]


def _texts(name: str, part: pd.DataFrame) -> Iterator[tuple[str, str]]:
    yield "csv", cells.csv(part)
    yield "tex", cells.latex(_shown(name, part))


def _shown(name: str, part: pd.DataFrame) -> pd.DataFrame:
    return tables.compact(part) if name.startswith("margins") or name == "methods" else part


def _figures(table: pd.DataFrame, witnesses: dict[str, Witness]) -> dict[str, _Drawn]:
    found, pictures = groups(table), choose(table, witnesses)
    drawn = {}
    if found:
        label = "Share of images whose margin exceeds rho. " + " ".join(
            f"{group.label}: {words.verdict(group)}" for group in found
        )
        drawn["sandwich"] = _Drawn(figure_sandwich(found), label)
    if any(group.certified(kind)["attacked"].notna().any() for group in found for kind in STRENGTHS):
        drawn["tightness"] = _Drawn(figure_tightness(found), "Certified against attacked margins, one point per image.")
    if pictures:
        label = "Originals, attacked inputs and their reconstructions of " + ", ".join(
            f"{picture.label} sample {picture.sample_id}" for picture in pictures
        )
        drawn["pictures"] = _Drawn(figure_pictures(pictures), label)
    return drawn


def _page(
    table: pd.DataFrame,
    made: dict[str, pd.DataFrame],
    drawn: dict[str, _Drawn],
    witnesses: dict[str, Witness],
    facts: dict[str, Any],
) -> dict[str, Any]:
    found = groups(table)
    pictures = choose(table, witnesses)
    inline = {name: Markup(inline_svg(item.figure, name, item.label)) for name, item in drawn.items()}
    kinds = list(dict.fromkeys([*strengths(table), *(["estimate"] if "estimates" in made else [])]))
    return {
        "version": __version__,
        "models": sorted(facts["models"]),
        "facts": facts,
        "packages": facts["environment"].get("packages", {}),
        "verdicts": [_verdict(group) for group in found],
        "reconstructions": {_kind(g): words.reconstruction(g) for g in sorted(found, key=_kind)},
        "random": sorted({g.reconstruction for g in found if not g.smoothed} - {"mean"}),
        "relative": any(group.r_relative is not None for group in found),
        "several": len(found) > len({group.topic for group in found}),
        "narrow": len(found) == 1,
        "logarithmic": is_logarithmic(found),
        **{name: inline.get(name, "") for name in ("sandwich", "tightness", "pictures")},
        "pictures_width": f"{7 + 7 * len(pictures):d}",
        "limits": [f"{limit:g}" for limit in pixel_range(pictures)],
        "margins": list(_margins(found, made)),
        "sections": [_section(name, made[name]) for name in _EXPLAINED if name in made],
        "compared": _compared(table),
        "witnesses": len(witnesses),
        "meanings": {kind: words.MEANINGS[kind] for kind in kinds},
    }


def _kind(group: Group) -> str:
    return group.reconstruction.partition(",")[0]  # whatever the noise


def _verdict(group: Group) -> dict[str, str]:
    said = {"label": group.label, "dataset": group.dataset}
    return {**said, "question": words.question(group), "text": words.verdict(group)}


def _margins(found: list[Group], made: dict[str, pd.DataFrame]) -> Iterator[dict[str, Any]]:
    several = sorted((name for name in made if name.startswith("margins-")), key=_place)
    one = "" if varying(found) or not found else f" {found[0].dataset}; {words.question(found[0])}."
    for name in several or [name for name in made if name == "margins"]:
        strength = f" Certificates: {name.partition('-')[2]}." if several else ""
        caption = (
            f"Margins in pixel units: median [lower, upper quartile] over images.{strength}{one} The ratio is over "
            "images with both margins, and 0 where no attack succeeded."
        )
        yield {"caption": caption, "table": table_html(_shown(name, made[name]))}


def _place(name: str) -> int:
    return STRENGTHS.index(name.partition("-")[2])


def _section(name: str, part: pd.DataFrame) -> dict[str, Any]:
    title, caption = _EXPLAINED[name]
    return {"id": name, "title": title, "caption": caption, "table": table_html(_shown(name, part))}


def _compared(table: pd.DataFrame) -> int:
    lines = results.sandwich(table)
    return int((lines["certified"].notna() & np.isfinite(lines["attacked"].fillna(np.inf))).sum())


def _home(name: str) -> str:
    path = PurePosixPath(name)
    return path.as_posix() if path.parts[0] == "witnesses" else f"witnesses/{path.as_posix()}"


def _write(out: Path, files: dict[str, bytes]) -> None:
    # Only files that an older report lists as its own are removed: the folder may be part of somebody's paper.
    for name in sorted(_listed(out) - set(files)):
        (out / name).unlink(missing_ok=True)
    for name, content in files.items():
        results.write_atomic(out / name, content)


def _listed(out: Path) -> set[str]:
    try:
        names = json.loads((out / _MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if (out / name).resolve().is_relative_to(out.resolve())}
