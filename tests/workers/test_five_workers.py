"""Five workers on one queue: no event twice, no figure wrong, and nobody waits for the other in a circle."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text

from questlog.embedded import EmbeddedServers
from tests.chaos.load import learners_of
from tests.histories import as_tracked
from tests.platform import new_api, until
from tests.walks.test_figures import wrong
from tests.workers.test_main import worker_process
from workers.ledger import Ledger, ledger
from workers.queue import enqueue, open_queue

WORKERS, LEARNERS, EVENTS, AGAIN, BATCH = 5, 3, 1000, 300, 25
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.mark.long
async def test_five_workers_share_few_learners_and_get_every_figure_right(
    servers: EmbeddedServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random = Random("five workers")
    learners = learners_of(random, datetime.now(UTC), LEARNERS, EVENTS)
    events = [as_tracked(event, learner.user_id) for learner in learners for event in learner.events]
    sent = events + random.sample(events, AGAIN)
    random.shuffle(sent)
    async with new_api(servers, tmp_path) as api:
        await api.upsert(
            *({"userId": each.user_id, "role": "STUDENT", "timeZone": each.time_zone} for each in learners)
        )
        queue = await open_queue(servers.redis_url)

        async def told() -> Ledger:
            async with api.worker_engine.connect() as connection:
                return await ledger(connection, queue)

        async def all_work() -> bool:
            return (await told()).workers == WORKERS

        async def all_is_done() -> bool:
            return not (await told()).waiting and not await api.dirty()

        with contextlib.ExitStack() as workers:
            for _ in range(WORKERS):
                workers.enter_context(worker_process(api))
            await until(all_work)
            for start in range(0, len(sent), BATCH):
                await enqueue(queue, [sent[start : start + BATCH]])
            await until(all_is_done)
            await until(api.assessed)
            counted = await told()
            await queue.aclose(close_connection_pool=True)
        assert (counted.accepted, counted.stored, counted.duplicate) == (len(sent), len(events), AGAIN)
        assert counted.adds_up
        assert counted.last_error is None
        for learner in learners:
            assert await wrong(api, learner) == []
        async with api.superuser.connect() as connection:
            kept = await connection.scalars(text("SELECT event_id FROM user_activity_events ORDER BY 1"))
            assert kept.all() == sorted(event.event_id for event in events)
            assert await connection.scalar(text(DEADLOCKS)) == 0
    assert capfd.readouterr().err == ""
