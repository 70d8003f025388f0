"""Recommends to some users and prints the chain of thought behind each item.

  python launch/recommend.py --config=.. --workdir=.. --users=17,42 --k=5

Histories are whole: everything the data set knows of a user.
"""

import stage
from absl import flags

from holorec_jax.experiment import recommendation

USERS = flags.DEFINE_list("users", [], "User ids; empty takes the first three.")
SYSTEM = flags.DEFINE_string("system", "", "Which system; empty: the headline.")
EXCLUDE_SEEN = flags.DEFINE_bool(
  "exclude_seen", False, "Leave out items of the user's history."
)
K = flags.DEFINE_integer("k", 5, "Items to recommend.", lower_bound=1)


def recommend(config, workdir):
  recommendation.recommend(
    config,
    workdir,
    USERS.value,
    SYSTEM.value or config.systems[0],
    K.value,
    EXCLUDE_SEEN.value,
  )


if __name__ == "__main__":
  stage.run(recommend)
