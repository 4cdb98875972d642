"""Rows: what a certificate or an attack says of one sample; written, read, held against each other; without torch."""

from vaerdict.results.compare import COMPARED, Contradiction, check_contradictions, one_per_question, sandwich
from vaerdict.results.files import remove_drafts, write_atomic
from vaerdict.results.names import array_sha256, canonical_json, perturbation_size, subjects, unit_key
from vaerdict.results.origin import code_version, environment
from vaerdict.results.parts import SKIPPED, DamagedParts, frame, load, write_part
from vaerdict.results.row import KEY, NECESSARY, SCHEMA, SCHEMA_VERSION, Row

__all__ = [
    "COMPARED",
    "KEY",
    "NECESSARY",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SKIPPED",
    "Contradiction",
    "DamagedParts",
    "Row",
    "array_sha256",
    "canonical_json",
    "check_contradictions",
    "code_version",
    "environment",
    "frame",
    "load",
    "one_per_question",
    "perturbation_size",
    "remove_drafts",
    "sandwich",
    "subjects",
    "unit_key",
    "write_atomic",
    "write_part",
]
