"""The table of contents of the daemon: one small file each, one class with a `step`, nothing else.

A routine never loops, sleeps, catches or logs about its own life: the supervisor does that for all of them.
"""
