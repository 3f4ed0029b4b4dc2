"""What the chart makes of its default values, of every example, and of what those leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.chart.rendering import VALUES, render

if TYPE_CHECKING:
    from tests.deploy.chart.rendering import Rendered


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(VALUES[request.param])
