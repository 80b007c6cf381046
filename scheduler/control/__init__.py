"""The control socket: how clients on this machine talk to the daemon. One JSON line in, one JSON line out."""
