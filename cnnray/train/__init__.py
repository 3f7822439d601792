"""Ray Train: one loop, and one file per task."""
