"""How costs grow: with the history, with the number of dags, with the size of one run, under an old snapshot.

Everything here is a ratio of two measurements of one session. `measures` runs it all, `work` is the program that
does the work, the rest prepares what it is done on.
"""
