"""`python -m forethought.cli` is the `forethought` command."""

from forethought.cli.main import main

if __name__ == "__main__":
    main()
