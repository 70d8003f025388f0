"""Searches for all test users; writes results.json and report.html."""

import stage

from holorec_jax.experiment import evaluation

if __name__ == "__main__":
  stage.run(evaluation.evaluate, evaluation.summarise)
