"""Alembic's folder: the steps from an older record to the tables of today."""
