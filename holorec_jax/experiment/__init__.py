"""From a config and a workdir to a trained, evaluated, explained recommender.

The single place where the parts are wired together; `launch/` holds a thin
script for each stage.
"""
