"""What a bundle returns is what the recommender returns, of every engine."""

import jax
import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.export import bundle, changes, programs, runtime

USERS = 11
OPTIONS = bundle.Options(buckets=(4,), list_width=16)


def draw_lists(seed: int) -> list[list[int]]:
  rng = np.random.default_rng(seed)
  return [
    rng.integers(0, tiny.ITEMS, 4 * (u % 4)).tolist() for u in range(USERS)
  ]


@pytest.mark.parametrize(
  ("name", "room", "dtype", "strength"),
  [
    ("none", 0.5, "float32", 1.5),
    ("s2gr", 0.0, "bfloat16", 0),
    ("pause", 0.0, "float32", 0),
    ("reg4rec", 0.5, "float32", 1.5),
    ("sasrec", 0.0, "float32", 1.5),
  ],
)
def test_same_items_and_scores(tmp_path, name, room, dtype, strength):
  recommender = tiny.make_recommender(name, room, dtype, strength)
  bundle.write(tmp_path / "b", recommender, tiny.make_contents(), OPTIONS)
  # It was replayed when it was written.
  exported = runtime.load(tmp_path / "b", replay=False)
  histories, deny, allow = (
    tiny.draw_histories(USERS),
    draw_lists(1),
    draw_lists(2),
  )

  def compare(allow, k=None):
    # Shapes and precision are those of the golden request: nothing compiles.
    with jax.default_matmul_precision(programs.precision(dtype)):
      theirs = recommender.recommend(
        make_histories(histories), Filters(False, deny, allow), k
      )
    item_UK, score_UK = exported.recommend(
      histories, deny=deny, allow=allow, k=k
    )
    np.testing.assert_array_equal(item_UK, theirs.items_UK)
    np.testing.assert_allclose(score_UK, theirs.scores_UK, atol=1e-5, rtol=0)
    assert item_UK.dtype == np.int32 and score_UK.dtype == np.float32
    return item_UK

  assert (compare([None] * USERS) >= 0).all()
  assert (
    compare([None if u % 3 else a for u, a in enumerate(allow)]) < 0
  ).any()
  available_I = np.arange(tiny.ITEMS) % 4 > 0
  for system in (recommender, exported):
    system.set_available(available_I)
  found = compare([None] * USERS)
  assert available_I[found].all()
  assert exported._search[4]._cache_size() == 1
  if name not in ("reg4rec", "sasrec"):
    return
  # Without a tree items only leave.
  codes = np.zeros((0, 1, 1), np.int32)
  gone = changes.Delta([], [], codes, ["item 3", "item 20"])
  exported = exported.change(gone, "x")
  available_I = ~np.isin(np.arange(tiny.ITEMS), [3, 20])
  recommender.set_available(available_I)
  # Shares of popularity are among those that are left, unlike with a mask.
  histories = [history or [1] for history in histories]
  found = compare([None] * USERS)
  assert available_I[found].all() and (found % 4 == 0).any()
  exported.set_available(np.ones(tiny.ITEMS, bool))
  compare([[3, 4, 5, 20]] * USERS)
  new = changes.Delta(["a"], [""], tiny.SETS.sids_IRL[:1], [])
  with pytest.raises(runtime.changes.ChangeError, match="no tree of codes"):
    exported.change(new, "x")
