"""`python -m tollway`: the command line."""

from tollway.cli import entry

if __name__ == "__main__":
    entry()
