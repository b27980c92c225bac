"""Attempts to break out of a payload's confinement, run by a real pilot on each rung."""
