"""Fixtures of the coordinator's tests."""

from collections.abc import Iterator

import pytest
from core_stage import Stage, new_stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An empty core; what it holds is checked when the test is over."""
    stage = new_stage()
    yield stage
    stage.core.validate()
