"""How the state of a run, task, attempt or dag looks: colour and icon, so that neither must carry it alone."""

from attrs import frozen


@frozen
class Look:
    """Icon, a plain letter for terminals without Unicode, and a rich style."""

    icon: str
    letter: str
    style: str


LOOKS = {
    "none": Look("·", ".", "dim"),
    "scheduled": Look("◔", "c", "blue"),
    "queued": Look("○", "q", "blue"),
    "running": Look("▶", ">", "cyan"),
    "restarting": Look("↺", "R", "yellow"),
    "up_for_retry": Look("↻", "r", "yellow"),
    "success": Look("✔", "+", "green"),
    "failed": Look("✖", "x", "bold red"),
    "skipped": Look("↷", "-", "magenta"),
    "upstream_failed": Look("⊘", "u", "red"),
    "removed": Look("⊖", "_", "dim"),
    "lost": Look("↯", "!", "yellow"),
    "revoked": Look("↩", "<", "dim"),
    "paused": Look("‖", "=", "yellow"),
    "active": Look("●", "*", "green"),
    "gone": Look("⊖", "_", "dim"),
}

_UNKNOWN = Look("?", "?", "")


def look(state: str) -> Look:
    """How to show a state; an unknown one is shown plainly."""
    return LOOKS.get(state, _UNKNOWN)
