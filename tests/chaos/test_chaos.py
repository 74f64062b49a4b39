"""Whatever dies, stands still or is slow in between: what was acknowledged is there once, and every figure is right."""

from pathlib import Path

import pytest

from tests.chaos.run import run

pytestmark = pytest.mark.timeout(500)


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 4, 5, 6))])
async def test_chaos(seed: int, tmp_path: Path) -> None:
    outcome = await run(seed, tmp_path / "home")
    assert not outcome.wrong, outcome.report()
