"""What every benchmark shares: options, targets, and the JSON with the environment."""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaerdict.results import environment

RESULTS = Path(__file__).parent / "results"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that was asked for, and the one that was measured."""

    name: str
    wanted: str
    measured: float
    met: bool


def make_parser(description: str) -> argparse.ArgumentParser:
    """Give a parser with the two options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 60 s, results not written")
    return parser


def finite(found: Any) -> Any:
    """Give results that JSON can hold: nothing in place of what is infinite.

    >>> finite({"a": [1.0, float("inf")]})
    {'a': [1.0, None]}
    """
    if isinstance(found, dict):
        return {str(key): finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def finish(name: str, options: argparse.Namespace, targets: list[Target], **results: Any) -> None:
    """Write the results (not of a quick run), print the targets' figures on the last line, and leave."""
    if not options.quick:
        content = {"targets": [asdict(target) for target in targets], **results, "environment": environment()}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
    missed = [target for target in targets if not target.met]
    print(
        f"{name}: {len(targets) - len(missed)} of {len(targets)} targets met; "
        + "; ".join(f"{t.name} {t.measured:.6g} ({'met' if t.met else 'MISSED'}, wanted {t.wanted})" for t in targets)
    )
    sys.exit(1 if options.check and missed else 0)
