"""Limit B: how many rows PostgreSQL itself stores a second."""

from time import perf_counter

import asyncpg

from questlog.embedded import EmbeddedServers

ROWS = 50_000
ROWS_A_BATCH = 500


async def rows_a_second(servers: EmbeddedServers | None) -> float:
    """Rows such as those that are there, into a table with the same partitions and indexes, from one connection."""
    if servers is None:
        raise RuntimeError("limit B needs the embedded servers")
    connection = await asyncpg.connect(servers.superuser_url)
    try:
        await _make_table(connection)
        columns = await connection.fetch(
            "SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
            " WHERE attrelid = 'limit_b'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        names = ", ".join(column["name"] for column in columns)
        arrays = ", ".join(f"${number}::{column['type']}[]" for number, column in enumerate(columns, start=1))
        insert = await connection.prepare(
            f"INSERT INTO limit_b ({names}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING RETURNING event_id"
        )
        rows = await connection.fetch(f"SELECT {names} FROM user_activity_events ORDER BY received_at LIMIT {ROWS}")
        starts = range(0, len(rows), ROWS_A_BATCH)
        batches = [list(map(list, zip(*rows[start : start + ROWS_A_BATCH], strict=True))) for start in starts]
        began = perf_counter()
        for batch in batches:
            await insert.fetch(*batch)
        return len(rows) / (perf_counter() - began)
    finally:
        await connection.execute("DROP TABLE IF EXISTS limit_b")
        await connection.close()


async def _make_table(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute(
        "CREATE TABLE limit_b (LIKE user_activity_events INCLUDING ALL) PARTITION BY RANGE (occurred_at)"
    )
    weeks = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name, pg_get_expr(relpartbound, inhrelid) AS bounds"
        " FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = 'user_activity_events'::regclass"
    )
    for week in weeks:
        name = week["name"].replace("user_activity_events", "limit_b")
        await connection.execute(f"CREATE TABLE {name} PARTITION OF limit_b {week['bounds']}")
