"""`python -m vitrail` and the command `vitrail`."""

import sys


def main() -> None:
    from vitrail.cli.main import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
