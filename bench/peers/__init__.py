"""Other systems measured beside ours, in the same run, on the same PostgreSQL; see the section in bench/README.md."""
