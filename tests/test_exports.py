"""What the folders export is written down, exists, and is documented."""

import importlib

import pytest

FOLDERS = ("attacks", "certify", "checker", "lipschitz", "models", "reports", "sweeps")


@pytest.mark.parametrize("folder", FOLDERS)
def test_exports_exist_in_order_and_say_what_they_are(folder: str) -> None:
    module = importlib.import_module(f"vaerdict.{folder}")
    assert module.__doc__
    assert len(module.__doc__.splitlines()) == 1
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        exported = getattr(module, name)
        assert exported.__module__.startswith(f"vaerdict.{folder}."), f"{name} belongs to {exported.__module__}"
        assert (exported.__doc__ or "").strip(), f"{name} has no docstring"


def test_the_four_main_verbs() -> None:
    from vaerdict.attacks import attack, attack_margin
    from vaerdict.certify import certify
    from vaerdict.lipschitz import bound_lipschitz
    from vaerdict.reports import build_report

    assert all(map(callable, (attack, attack_margin, certify, bound_lipschitz, build_report)))
