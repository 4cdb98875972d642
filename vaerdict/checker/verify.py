"""One certificate verified: what it says of itself, then its numbers."""

import json

from vaerdict.checker.case import Case
from vaerdict.checker.methods import METHODS
from vaerdict.checker.rules import faults
from vaerdict.checker.stated import Malformed


def verify(case: Case) -> None:
    """Check one certificate; what is wrong is written to its notes. A margin of 0 claims nothing.

    >>> verify.__name__
    'verify'
    """
    claim = case.claim
    for fault in faults(claim):
        case.notes.fail(fault)
    if case.notes.failures or claim.margin == 0:
        return
    try:
        if not METHODS[claim.method](case):
            case.notes.fail(f"the margin {claim.margin!r} is not proved by the stated constants")
    except Malformed as error:
        case.notes.fail(f"{error} in {json.dumps(claim.constants)[:200]}")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        case.notes.fail(f"the files cannot be understood: {type(error).__name__} {error}")
