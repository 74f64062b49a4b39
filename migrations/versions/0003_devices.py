"""The subjects of devices, whose events nobody signed."""

from alembic import context, op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE TABLE devices (device_id uuid PRIMARY KEY, subject_key uuid NOT NULL UNIQUE)")
    op.execute("ALTER TABLE devices ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE devices FORCE ROW LEVEL SECURITY")
    logins: dict[str, str] = context.config.attributes["logins"]
    for name in ("worker", "intake"):
        login = '"' + logins[name].replace('"', '""') + '"'
        op.execute(f"GRANT SELECT, INSERT ON devices TO {login}")
        op.execute(f"CREATE POLICY {login} ON devices TO {login} USING (true)")


def downgrade() -> None:
    op.execute("DROP TABLE devices")
