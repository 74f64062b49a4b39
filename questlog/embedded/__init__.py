"""A real PostgreSQL and a real Valkey out of their wheels, run for one QUESTLOG_HOME and for nobody else."""

from questlog.embedded.house import SYSTEM_FOLDER, EmbeddedError
from questlog.embedded.servers import EmbeddedServers

__all__ = ["SYSTEM_FOLDER", "EmbeddedError", "EmbeddedServers"]
