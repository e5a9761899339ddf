"""The command line, from its first moment: `python -m harmonyray`, and what the command `harmonyray` calls."""

import sys


def run() -> int:
    """`cli.main`; an interrupt while it is being imported ends in one line too."""
    try:
        from harmonyray.cli import main
    except KeyboardInterrupt:
        print("harmonyray: interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
