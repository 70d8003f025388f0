"""Recommends to some users and prints the chain of thought behind each item.

  python launch/recommend.py --config=.. --workdir=.. --users=17,42 --k=5

Or to all users, into a folder of Parquet files with the columns user, items
(external ids, best first), scores (log-probabilities) and from_prior (no
history: the most popular items). The same command goes on where it stopped.

  python launch/recommend.py --config=.. --workdir=.. --all --out=DIR --k=20

Histories are whole: everything the data set knows of a user.
"""

import stage
from absl import flags

from holorec_jax.errors import UserError
from holorec_jax.experiment import bulk, recommendation

USERS = flags.DEFINE_list("users", [], "User ids; empty takes the first three.")
SYSTEM = flags.DEFINE_string(
  "system",
  "",
  "Which system; empty: the headline; aligned: that, after launch/align.py.",
)
EXCLUDE_SEEN = flags.DEFINE_bool(
  "exclude_seen", False, "Leave out items of the user's history."
)
ALLOW = flags.DEFINE_list("allow", [], "Item ids to choose from; empty: all.")
DENY = flags.DEFINE_list("deny", [], "Item ids to leave out.")
K = flags.DEFINE_integer("k", 5, "Items to recommend.", lower_bound=1)
ALL = flags.DEFINE_bool("all", False, "Recommend to all users, into --out.")
OUT = flags.DEFINE_string("out", None, "With --all: folder of the files.")
USERS_PER_SHARD = flags.DEFINE_integer(
  "users_per_shard", 10_000, "With --all: rows of each file.", lower_bound=1
)


def recommend(config, workdir):
  if ALL.value:
    recommend_all(config, workdir)
    return
  if OUT.value is not None:
    raise UserError("--out is where --all writes: give both, or neither")
  recommendation.recommend(
    config,
    workdir,
    USERS.value,
    SYSTEM.value,
    K.value,
    EXCLUDE_SEEN.value,
    ALLOW.value,
    DENY.value,
  )


def recommend_all(config, workdir):
  if USERS.value:
    raise UserError("--users and --all exclude each other: give one of them")
  if not OUT.value:
    raise UserError("--all needs --out=DIR, the folder to write to")
  request = bulk.Request(
    SYSTEM.value,
    K.value,
    EXCLUDE_SEEN.value,
    tuple(ALLOW.value),
    tuple(DENY.value),
    USERS_PER_SHARD.value,
  )
  bulk.recommend_all(config, workdir, OUT.value, request)


if __name__ == "__main__":
  stage.run(recommend)
