"""Layers: normalisation, feed-forward, attention of T5 and of Qwen3."""
