"""`python -m eggpool` is the same program as `eggpool`."""

from eggpool.cli.main import main

if __name__ == "__main__":
    main()
