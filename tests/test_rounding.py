import pytest

from reports.results import Summary
from reports.rounding import plus_minus, rounded


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [
        (49.4567, 0.4301, "49.46 ± 0.44"),  # 0.43 would flatter
        (49.4567, 12.01, "49 ± 13"),
        (1234.5, 0.0999, "1,234.500 ± 0.100"),
        (2.5, 0.0, "2.500 ± 0"),
        (65.93, None, "65.93"),
        (5123.4, 234.5, "5,123 ± 235"),
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
