"""Runs that are disturbed on purpose: what is left, and whether the same command finishes them."""
