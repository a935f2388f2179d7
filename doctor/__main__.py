"""`python -m doctor` is the console script under another name."""

from doctor.cli import main

if __name__ == "__main__":
    main()
