"""From facts to lines: what happened, told to people on a terminal and to programs in a log."""
