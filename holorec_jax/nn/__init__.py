"""Layers of the T5 family: normalisation, feed-forward, attention."""
