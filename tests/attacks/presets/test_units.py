from dataclasses import dataclass

import pytest

from vaerdict.attacks import LBFGS, PGD, Adam, Singular
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.presets.units import in_pixels, scale_between, with_steps


def test_scale_is_the_ratio_of_the_widths() -> None:
    assert scale_between((0.0, 1.0), (0.0, 255.0)) == 255.0
    assert scale_between((-1.0, 1.0), (-1.0, 1.0)) == 1.0


def test_lengths_scale_with_the_pixel() -> None:
    assert in_pixels(Adam(learning_rate=0.1), 4.0, 0).learning_rate == 0.4
    assert in_pixels(SGD(learning_rate=0.1, direction="steepest"), 4.0, 0).learning_rate == 0.4


@pytest.mark.parametrize(("power", "rate", "penalty"), [(0, 1.6, 0.5 / 16), (2, 0.1, 0.5)])
def test_raw_gradients_and_penalties_depend_on_the_unit_of_the_loss(power: int, rate: float, penalty: float) -> None:
    converted = in_pixels(SGD(learning_rate=0.1, penalty=0.5), 4.0, power)
    assert (converted.learning_rate, converted.penalty) == (rate, penalty)
    assert in_pixels(Adam(penalty=0.5), 4.0, power).penalty == penalty
    line_search = in_pixels(LBFGS(penalty=0.5, pgtol=1.0), 4.0, power)
    assert (line_search.penalty, line_search.pgtol) == (penalty, 4.0 ** (power - 1))


@pytest.mark.parametrize("options", [PGD(), Singular()])
def test_steps_in_radii_stay(options: PGD | Singular) -> None:
    assert in_pixels(options, 4.0, 0) == options


def test_an_optimiser_of_unknown_units_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Singular):
        learning_rate: float = 1.0

    with pytest.raises(ValueError, match="an optimiser whose units are known, got Mine"):
        in_pixels(Mine(), 2.0, 0)


def test_steps_have_several_names() -> None:
    found = [with_steps(options, 7) for options in (SGD(), Adam(), LBFGS(), Singular())]
    assert [found[0].steps, found[1].steps, found[2].evaluations, found[3].iterations] == [7, 7, 7, 7]
    assert with_steps(Adam(steps=9), None).steps == 9
