"""Losses, the jitted step, the loop, checkpoints and metric writers."""
