"""``python -m relevo_conformance``: the command line."""

from relevo_conformance.cli import main

if __name__ == "__main__":
    main()
