"""Pieces of transactions that several writers share: each runs under locks its caller has taken, in order."""
