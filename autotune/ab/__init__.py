"""End to end: two arms of a serving benchmark, and what may be said of their difference."""
