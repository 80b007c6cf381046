"""Alembic's folder: one file for each step from one schema to the next."""
