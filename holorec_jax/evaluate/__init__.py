"""Ranked lists in; numbers, intervals, slices, baselines and a report out."""
