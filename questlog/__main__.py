"""`questlog` and `python -m questlog`: the command line."""

import sys

from questlog import enter


def main() -> None:
    """Run the command that the arguments name."""
    enter()
    try:
        from questlog.cli import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
