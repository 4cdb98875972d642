"""A whole run: every certificate and every witness of its results, checked one after the other."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaerdict.checker.case import Case
from vaerdict.checker.claims import Claim, differences, read_claims
from vaerdict.checker.methods import METHODS
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.notes import Notes, Verdict
from vaerdict.checker.verify import verify
from vaerdict.checker.witnesses import check_witness
from vaerdict.results import SKIPPED, load

_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What was checked, row by row."""

    verdicts: tuple[Verdict, ...]

    @property
    def failed(self) -> list[Verdict]:
        """The rows with something wrong."""
        return [one for one in self.verdicts if one.notes.failures]

    def __str__(self) -> str:
        covered = [one for one in self.verdicts if one.covered or one.notes.failures]
        partly = [one for one in covered if one.notes.stated and not one.notes.failures]
        stated = Counter(what for one in partly for what in one.notes.stated)
        other = Counter(one.method for one in self.verdicts if not one.covered and not one.notes.failures)
        first = f"{len(covered)} checked, {len(self.failed)} failed"
        first += f" ({len(partly)} in part)" if partly else ""
        lines = [first]
        lines += [f"taken as stated in {count}: {what}" for what, count in stated.most_common()]
        lines += [f"not covered: {count} by {method}" for method, count in other.most_common()]
        lines += [f"failed: {one.about}: {'; '.join(one.notes.failures)}" for one in self.failed[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            lines.append(f"and {len(self.failed) - _SHOWN} more failed")
        return "\n".join(lines)


def check_run(folder: Path) -> Report:
    """Check the certificates and witnesses of a run again, by code that shares nothing with what made them.

    Args:
        folder: of the run, with `results` and `certificates`.

    Raises:
        FileNotFoundError: there are no results, or no exported certificates though rows speak of them.
        ValueError: there is nothing that could be checked.
    """
    return Report(tuple(_Checker(Path(folder)).verdicts()))


class _Checker:
    """Holds what several rows share: the models, and what was found for equal claims."""

    def __init__(self, run: Path) -> None:
        self.run, self.home = run, run / "certificates"
        table = load(run / "results")
        self.rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        self.skipped: dict[str, str] = table.attrs.get(SKIPPED, {})
        self.models: dict[str, Model | str] = {}
        self.known: dict[str, tuple[Notes, bool]] = {}
        self.seen: set[str] = set()

    def verdicts(self) -> Iterator[Verdict]:
        certificates = [row for row in self.rows if row["kind"] == "certificate" and row["status"] == "ok"]
        attacks = [row for row in self.rows if row["kind"] == "attack" and row["status"] == "ok"]
        witnesses = [row for row in attacks if isinstance(row["witness"], str)]
        if not certificates and not witnesses:
            raise ValueError(f"expected certificates or witnesses in {self.run}, found none")
        if certificates and not self.home.is_dir():
            raise FileNotFoundError(f"expected exported certificates in {self.home}, found none")
        for path, why in self.skipped.items():
            yield Verdict(f"file {path}", "", Notes([why]))
        units: dict[str, list[dict[str, Any]]] = {}
        for row in certificates:
            units.setdefault(row["unit_key"], []).append(row)
        for key in sorted({*units, *(path.stem for path in self.home.glob("*.json"))}):
            yield from self._unit(key, units.get(key, []))
        for row in attacks:
            yield self._attack(row)

    def _unit(self, key: str, rows: list[dict[str, Any]]) -> Iterator[Verdict]:
        try:
            claims = read_claims(self.home / f"{key}.json")
        except ValueError as error:
            yield Verdict(f"unit {key[:8]}", "", Notes([str(error)]))
            return
        if len(claims) != len(rows):
            reason = f"{len(claims)} exported certificates, {len(rows)} rows in the results"
            yield Verdict(f"unit {key[:8]}", "", Notes([reason]))
        for claim, row in zip(claims, rows, strict=False):
            if found := differences(claim, row):
                reason = f"the exported certificate and the results differ in {', '.join(found)}"
                yield Verdict(_about(row), claim.method, Notes([reason]))
            elif repr(claim) not in self.seen:  # each is counted once
                self.seen.add(repr(claim))
                yield self._certificate(claim)

    def _certificate(self, claim: Claim) -> Verdict:
        # What images share, as a constant spread's margin, is computed once.
        same = repr(replace(claim, sample_id=0, sample_sha256="", dataset=""))
        if same not in self.known:
            self.known[same] = self._check(claim)
        notes, covered = self.known[same]
        return Verdict(claim.about, claim.method, notes, covered)

    def _check(self, claim: Claim) -> tuple[Notes, bool]:
        notes = Notes()
        model = self._model_of(claim, notes)
        if isinstance(model, str):
            notes.fail(model)
        elif claim.method not in METHODS:
            return notes, False
        else:
            verify(Case(claim, model, notes))
        return notes, True

    def _model_of(self, claim: Claim, notes: Notes) -> Model | str:
        """Give the model of a claim; none of a hierarchical one, which has no maps to export, need be stored."""
        if claim.method == "hierarchical" and not (self.home / claim.model_sha256).is_dir():
            notes.state("the model, which is not stored")
            return Model(claim.model_sha256, {}, {})
        return self._model(claim.model_sha256)

    def _model(self, sha256: str) -> Model | str:
        if sha256 not in self.models:
            try:
                self.models[sha256] = read_model(self.home / sha256)
            except ValueError as error:
                self.models[sha256] = str(error)
        return self.models[sha256]

    def _attack(self, row: dict[str, Any]) -> Verdict:
        if not isinstance(row["witness"], str):
            return Verdict(_about(row), f"{row['method']} without a witness", Notes(), covered=False)
        stored = isinstance(row["model_sha256"], str) and (self.home / row["model_sha256"]).is_dir()
        model = self._model(row["model_sha256"]) if stored else None
        if isinstance(model, str):
            return Verdict(_about(row), row["method"], Notes([model]))
        return Verdict(_about(row), row["method"], check_witness(self.run, row, model))


def _about(row: dict[str, Any]) -> str:
    return f"{row['method']} on sample {row['sample_id']} of {row['dataset'] or 'unnamed data'}, r {row['r']:.6g}"
