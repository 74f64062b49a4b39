"""The front door: the app, sign-in, settings, command line and the embedded servers."""

import os
import sys
from pathlib import Path

COUNTS_AS = "PROMETHEUS_COUNTS_AS"
"""Names the process that the supervisor has started, and whoever takes its place."""


def enter() -> None:
    """Put the rooms on the path where a wheel has folded them into this package, and let metrics be counted where the
    supervisor reads them; entry points call it first."""
    rooms = Path(__file__).with_name("rooms")
    if rooms.is_dir():
        sys.path.insert(0, str(rooms))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ and COUNTS_AS in os.environ:
        from prometheus_client import values

        # By process id a new file would come with every start, and what the dead counted would be read for ever.
        values.ValueClass = values.MultiProcessValue(lambda: os.environ[COUNTS_AS])
