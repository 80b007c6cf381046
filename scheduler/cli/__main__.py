"""`python -m scheduler.cli`: the same as `asyncsched`."""

from scheduler.cli import main

if __name__ == "__main__":
    main()
