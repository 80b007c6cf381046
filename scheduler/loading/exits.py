"""How the parsing child ends when it cannot say why."""

DEAF = 97
"""Exit status: the result could not be written."""
