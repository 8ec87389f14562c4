"""Tells what a machine can do for tuning, and for each "no" the one thing to do. No heavy imports."""
