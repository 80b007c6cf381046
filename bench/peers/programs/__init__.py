"""What runs inside the peers' own environments: nothing here imports ours, and nothing of ours imports this."""
