"""Calls as an untyped caller makes them: the package's own checks must refuse what the run-time type check would."""

import inspect
from collections.abc import Callable
from typing import Any


def untyped(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function or make an object without the tests' type check of its arguments."""
    if not isinstance(function, type):
        return inspect.unwrap(function)(*args, **kwargs)
    made = function.__new__(function)
    inspect.unwrap(function.__init__)(made, *args, **kwargs)
    return made
