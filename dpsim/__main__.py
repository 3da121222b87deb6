"""``python -m dpsim`` is the command ``dpsim``, for launchers that start modules."""

from dpsim.cli.main import main

if __name__ == "__main__":
    main()
