import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.reports.rounding import percent, quantile, round_down, round_up, rounded

positive = st.floats(min_value=0, allow_infinity=False, allow_nan=False)


@given(positive, st.integers(1, 6))
def test_written_numbers_bracket_the_value_and_are_no_further_than_one_digit(value: float, digits: int) -> None:
    low, high = float(round_down(value, digits)), float(round_up(value, digits))
    assert low <= value <= high
    if value > 1e-300 and math.isfinite(high):
        assert high - low <= 1.0001 * value * 10.0 ** (1 - digits)


@given(positive)
def test_a_written_number_is_written_the_same_again(value: float) -> None:
    for direction, write in (("down", round_down), ("up", round_up)):
        text = write(value)
        if math.isfinite(float(text)):
            assert rounded(float(text), direction) == text


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        (0.3, "0.300", "0.300"),
        (0.29999, "0.299", "0.300"),
        (0.99951, "0.999", "1.00"),
        (1234.5, "1230", "1240"),
        (0.00123456, "0.00123", "0.00124"),
        (0.000123456, "1.23e-4", "1.24e-4"),
        (9.999e-8, "9.99e-8", "1.00e-7"),
        (0.0, "0", "0"),
        (math.inf, "inf", "inf"),
    ],
)
def test_examples(value: float, down: str, up: str) -> None:
    assert (round_down(value), round_up(value)) == (down, up)


@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_what_is_no_distance_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected a number >= 0"):
        round_down(value)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.sampled_from([1, 2, 3]))
def test_quantiles_are_numpy_s(values: list[float], quarter: int) -> None:
    assert float(quantile(values, Fraction(quarter, 4))) == pytest.approx(np.quantile(values, quarter / 4), rel=1e-12)


def test_quantiles_with_infinite_values_are_never_nan() -> None:
    values = [1.0, 2.0, math.inf, math.inf]
    assert [float(quantile(values, Fraction(q, 4))) for q in (1, 2, 3)] == [1.75, math.inf, math.inf]


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert percent(9999, 10000) == "99.9"
