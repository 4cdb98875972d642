"""The table of docs/foolbox.md says what happens, for every attack class that foolbox exports."""

from tests.attacks.bridge.outcomes import HEAD, PAGE, classes, line, written


def test_the_documented_outcome_of_every_class_is_what_happens() -> None:
    documented = written(PAGE.read_text()).removeprefix(HEAD).strip().splitlines()
    assert len(documented) > 50
    assert documented == [line(name, found) for name, found in classes().items()]
