"""The front door: the app, sign-in, settings, command line and the embedded servers."""

import sys
from pathlib import Path


def enter() -> None:
    """Put the rooms on the path where a wheel has folded them into this package; entry points call it first."""
    rooms = Path(__file__).with_name("rooms")
    if rooms.is_dir():
        sys.path.insert(0, str(rooms))
