"""`python -m hyla.cli` is `hyla`."""

from hyla.cli import main

if __name__ == "__main__":
    main()
