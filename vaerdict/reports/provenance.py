"""Where the numbers come from: code, machine, software, weights, parts; and the checklist that venues ask for."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from vaerdict.reports.groups import labelled
from vaerdict.results import SKIPPED, environment

_RESULTS = "results"


def provenance(run: Path, table: pd.DataFrame) -> dict[str, Any]:
    """Give what a reader needs to trace the report: the environment and SHA-256 of weights and of each part read.

    The environment is the one that the run recorded in `environment.json`, else this machine's, and says which. `code`
    counts the rows of each version of the code; `skipped` holds why `results.load` left out a file.

    Args:
        run: folder of the run.
        table: its rows, as `results.load` gave them.

    Raises:
        ValueError: `environment.json` cannot be read.

    >>> from vaerdict import results
    >>> sorted(provenance(Path("."), results.frame([])))[:4]
    ['code', 'confidence', 'datasets', 'devices']
    """
    recorded = run / "environment.json"
    skipped = {f"{_RESULTS}/{name}": why for name, why in table.attrs.get(SKIPPED, {}).items()}
    named = labelled(table).drop_duplicates("label").sort_values("label")
    return {
        "environment": _recorded(recorded) if recorded.exists() else environment(),
        "environment_of": "the run" if recorded.exists() else "the machine that built the report",
        "models": dict(zip(named["label"], named["model_sha256"], strict=True)),
        "weights_per_model": {name: int(n) for name, n in table.groupby("model")["model_sha256"].nunique().items()},
        "code": {version: int(rows) for version, rows in _versions(table).items()},
        "parts": {name: _sha256(run / name) for name in _parts(run) if name not in skipped},
        "skipped": skipped,
        "rows": len(table),
        "samples": int(table["sample_sha256"].nunique()),
        "datasets": _values(table["dataset"]),
        "seeds": [int(seed) for seed in _values(table["seed"])],
        "confidence": _values(table["confidence"]),
        "devices": _values(table["device"]),
        "dtypes": _values(table["dtype"]),
        "time_s": round(float(table["time_s"].sum()), 3),
        "n_forward": int(table["n_forward"].sum()),
        "n_backward": int(table["n_backward"].sum()),
    }


def checklist(facts: dict[str, Any]) -> str:
    """Write the answers to the questions that venues ask about experiments, as Markdown.

    >>> from vaerdict import results
    >>> print(checklist(provenance(Path("."), results.frame([]))).splitlines()[0])
    # Checklist
    """
    once = ", ".join(f"{name}: {count}" for name, count in facts["weights_per_model"].items()) or "none"
    machine = facts["environment"]
    lines = [
        "# Checklist",
        "",
        "- **Variability**: over test samples. Brackets are the lower and upper quartile over samples, not a "
        "confidence interval, and not a variation over trainings.",
        f"- **Trained weights per model name**: {once}.",
        "- **Rounding**: certified margins, ratios, damages and shares are rounded down, attacked margins up.",
        f"- **Confidence of statistical certificates** (for each sample on its own): {_list(facts['confidence'])}.",
        f"- **Seeds**: {_list(facts['seeds'])}.",
        f"- **Data**: {_list(facts['datasets'])}; {facts['samples']} distinct samples, {facts['rows']} rows.",
        f"- **Files**: {len(facts['parts'])} parts read, {_skipped(len(facts['skipped']))}.",
        f"- **Code**: {_code(facts['code'])}.",
        f"- **Hardware** ({facts['environment_of']}): {machine.get('processor', 'processor not recorded')}, "
        f"{machine.get('cores', 'unknown number of')} cores, {machine.get('platform', 'platform not recorded')}; "
        f"devices of the rows: {_list(facts['devices'])}; number types: {_list(facts['dtypes'])}.",
        f"- **Software**: {_packages(machine)}.",
        f"- **Time**: {facts['time_s']:.4g} s summed over rows; {facts['n_forward']} forward and "
        f"{facts['n_backward']} backward passes.",
        "- **Contradictions** between certificates and attacks: none, checked before the report was written.",
    ]
    return "\n".join(lines) + "\n"


def _list(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"


def _versions(table: pd.DataFrame) -> pd.Series:
    return table["code"].fillna("").replace("", "not recorded").value_counts().sort_index()


def _code(rows: dict[str, int]) -> str:
    if len(rows) < 2:
        return _list(list(rows))
    counted = ", ".join(f"{version} ({count} rows)" for version, count in rows.items())
    return f"several versions, rows were made by different code: {counted}"


def _skipped(count: int) -> str:
    return f"{count} files skipped that are no parts (`provenance.json` says why)" if count else "none skipped"


def _packages(machine: dict[str, Any]) -> str:
    packages = {"python": machine.get("python", "not recorded"), **machine.get("packages", {})}
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _parts(run: Path) -> list[str]:
    found = (path for path in (run / _RESULTS).rglob("*.parquet") if not path.name.startswith("."))
    return sorted(path.relative_to(run).as_posix() for path in found if not path.is_dir())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _values(column: pd.Series) -> list[Any]:
    return sorted(column.dropna().unique().tolist())
