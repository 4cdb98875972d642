"""The bridge to foolbox: its attacks on VAEs, and VAEs inside it; foolbox is imported when it is first needed."""

from typing import Any

from vaerdict.attacks.bridge.attack import FoolboxAttack

__all__ = ["DamageCriterion", "FoolboxAttack", "foolbox_model"]


def __getattr__(name: str) -> Any:
    """Import what is made of foolbox's own classes only where it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vaerdict.attacks.bridge import model

    return getattr(model, name)
