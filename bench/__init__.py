"""Measurements of asyncsched: `python -m bench`. How to read and repeat them is in README.md."""
