import pytest

from reports.results import Summary
from reports.rounding import Measured, listed, p_value, plus_minus, rounded, with_interval


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [
        (49.4567, 0.4301, "49.46 ± 0.44"),  # 0.43 would flatter
        (49.4567, 12.01, "49 ± 13"),
        (1234.5, 0.0999, "1,234.500 ± 0.100"),
        (2.5, 0.0, "2.500 ± 0"),
        (65.93, None, "65.93"),
        (5123.4, 234.5, "5,123 ± 235"),
        (2.5, 8.527e-15, "2.500 ± 0"),  # floating point, not a spread
        (0.0, 0.0, "0 ± 0"),
        (3.21e30, 4.5e29, "3.210e+30 ± 4.5e+29"),
    ],
)
def test_the_deviation_is_never_rounded_down(mean: float, deviation: float | None, expected: str) -> None:
    assert plus_minus(Summary(mean, deviation, mean, mean, 2)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (49.4567, "49.46"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (0.00001234, "1.234e-05"),
        (None, "—"),
        (float("nan"), "—"),
        (3.4e38, "3.400e+38"),
    ],
)
def test_numbers_keep_four_significant_digits(value: float | None, expected: str) -> None:
    assert rounded(value) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (2.8015, 1.149, 4.454, Measured("2.8", "1.1 to 4.5")),
        (1.024, 0.6581, 1.3899, Measured("1.02", "0.66 to 1.39")),
        (1.1, 0.004, 2.196, Measured("1.100", "0.004 to 2.196")),  # never "0.0": 0 lies outside
        (8.527e-15, -0.31, 0.31, Measured("0.00", "-0.31 to 0.31")),
        (12345.6, 11000.2, 13691.0, Measured("12,346", "11,000 to 13,691")),
        (3.0, 3.0, 3.0, Measured("3.000", "3.000 to 3.000")),
    ],
)
def test_a_value_and_its_interval_end_at_the_same_decimal(value, low, high, expected):
    assert with_interval(value, low, high) == expected


@pytest.mark.parametrize(
    ("p", "expected"), [(0.000231, "0.00023"), (0.0496, "0.0496"), (0.04997, "0.04997"), (0.0504, "0.05"), (1.0, "1")]
)
def test_a_p_value_shows_on_which_side_of_the_level_it_lies(p, expected):
    assert p_value(p, 0.05) == expected


def test_words_are_listed_as_in_a_sentence():
    assert [listed(words) for words in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["", "a", "a and b", "a, b and c"]
