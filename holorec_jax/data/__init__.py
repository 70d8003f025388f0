"""Interactions and items: raw files in, one canonical data set out."""
