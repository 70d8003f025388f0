"""A page that shows one run to the people beside it: launch/explore.py."""
