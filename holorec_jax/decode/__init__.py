"""Constrained beam search over the tree of valid codes, and its oracle."""
