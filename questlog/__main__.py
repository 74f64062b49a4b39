"""`questlog` and `python -m questlog`: the command line."""

from questlog import enter


def main() -> None:
    """Run the command that the arguments name."""
    enter()
    from questlog.cli import run

    run()


if __name__ == "__main__":
    main()
