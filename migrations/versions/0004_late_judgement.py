"""The worker reads guardianships, to judge what came while the database was away."""

from alembic import context, op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    worker = _worker()
    op.execute(f"GRANT SELECT ON guardianships TO {worker}")
    op.execute(f"CREATE POLICY {worker} ON guardianships FOR SELECT TO {worker} USING (true)")


def downgrade() -> None:
    worker = _worker()
    op.execute(f"DROP POLICY {worker} ON guardianships")
    op.execute(f"REVOKE SELECT ON guardianships FROM {worker}")


def _worker() -> str:
    logins: dict[str, str] = context.config.attributes["logins"]
    return '"' + logins["worker"].replace('"', '""') + '"'
