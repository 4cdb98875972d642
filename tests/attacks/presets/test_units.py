from dataclasses import dataclass, replace

import pytest

from tests.attacks.searches import TinyVAE
from vaerdict.attacks import LBFGS, PGD, Adam, Singular
from vaerdict.attacks.optimisers.noise import Noise
from vaerdict.attacks.optimisers.random_search import RandomSearch
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.optimisers.transfer import Transfer
from vaerdict.attacks.presets.units import in_pixels, scale_between, split_penalty, with_steps


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


def test_what_is_inside_an_optimiser_is_converted_too() -> None:
    inner = Adam(learning_rate=0.1, first=SGD(learning_rate=0.1, direction="steepest"))
    assert in_pixels(PGD(first=inner), 4.0, 0).first == in_pixels(inner, 4.0, 0)
    assert in_pixels(inner, 4.0, 0).first.learning_rate == 0.4
    transfer = Transfer(vae=TinyVAE(), options=inner)
    converted = in_pixels(transfer, 4.0, 0)
    assert converted.options.learning_rate == 0.4
    assert converted.vae is transfer.vae
    converted.spent["encoder_forward"] += 3
    assert transfer.spent["encoder_forward"] == 3, "costs are counted where the caller looks"


def test_steps_of_a_transfer_are_those_of_its_search() -> None:
    assert with_steps(Transfer(vae=TinyVAE()), 7).options.steps == 7


@pytest.mark.parametrize("options", [RandomSearch(queries=9), Noise(draws=5)])
def test_optimisers_that_count_no_gradients_take_no_steps(options: RandomSearch | Noise) -> None:
    with pytest.raises(ValueError, match=f"an optimiser that counts its gradients in .*, got {options.name}"):
        with_steps(options, 7)
    assert with_steps(options, None) == options


def test_penalties_are_taken_out_of_optimisers() -> None:
    adam = Adam(penalty=2.0, first=SGD(penalty=2.0))
    assert split_penalty(adam) == (Adam(first=SGD()), 2.0)
    assert split_penalty(Noise()) == (Noise(), 0.0)
    transfer, weight = split_penalty(Transfer(vae=TinyVAE(), options=adam))
    assert (transfer.options, weight) == (Adam(first=SGD()), 2.0)
    with pytest.raises(ValueError, match=r"`first` without a penalty, or with the same one, .*, got"):
        split_penalty(replace(adam, first=SGD(penalty=1.0)))
