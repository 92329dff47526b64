"""What a run must not forget or keep to itself: sites that are out, weights, last words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from covey.recipes import JobFailed

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def test_weights_with_an_infinite_sum_fail_the_run_and_say_so(lab: Lab) -> None:
    lab.client("meta['NUM_STEPS_CURRENT_ROUND'] = 1.7e308")
    with pytest.raises(JobFailed, match="the sum of their weights is infinite"):
        lab.recipe().execute(lab.env())
    lab.check_no_process_left()
