"""What the shell offers after TAB; asks the daemon, briefly, and offers nothing when it does not answer."""


def dag_ids(incomplete: str) -> list[str]:
    from scheduler.cli.connection import connect
    from scheduler.control.protocol import ControlError

    try:
        with connect(None, seconds=0.5) as client:
            return [dag["dag_id"] for dag in client.call("dags.list") if dag["dag_id"].startswith(incomplete)]
    except (ControlError, OSError):
        return []
