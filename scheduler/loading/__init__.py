"""From DAG files to dags as data: found by `scan`, executed in a child process by `loader`, pinned by `sources`.

`child` is what runs in that process. DAG files are programs of strangers: whatever one does, its own message is all
that comes of it.
"""
