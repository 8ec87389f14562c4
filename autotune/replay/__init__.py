"""Recorded tables, and the replaying of searches on them without a GPU."""
