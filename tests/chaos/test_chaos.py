"""Whatever dies, stands still or is slow in between: what was acknowledged is there once, and every figure is right."""

from pathlib import Path

import pytest

from tests.chaos.run import run

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]


@pytest.mark.parametrize("seed", range(1, 7))
async def test_chaos(seed: int, tmp_path: Path) -> None:
    outcome = await run(seed, tmp_path / "home")
    assert not outcome.wrong, outcome.report()
