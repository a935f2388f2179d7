"""`python -m doctor` is the console script under another name."""

import sys

if __name__ == "__main__":
    # -m puts the current folder first, where a file called json.py must not be taken for Python's
    if sys.path and not __file__.startswith(f"{sys.path[0]}/doctor/"):
        del sys.path[0]
    from doctor.cli.main import main

    main()
