import numpy as np

from holorec_jax.data import schema
from holorec_jax.quantize import categories


def _dataset(item_text, items=5):
  return schema.Dataset(
    name="shop",
    item_ids=np.arange(items).astype(str).astype(object),
    item_text=item_text,
    user_ids=np.array(["u"], object),
    offsets=np.array([0, 1]),
    items=np.array([0], np.int32),
  )


def test_a_leaf_is_a_whole_path():
  paths = ["B > Shave > Men", "B > Hair", "", "B > Scent > Men", "B > Hair"]
  category_I, names = categories.leaf_categories(
    _dataset({"categories": np.array(paths, object)})
  )
  assert names == ["B > Hair", "B > Scent > Men", "B > Shave > Men"]
  assert category_I.tolist() == [2, 0, -1, 1, 0]
  assert category_I.dtype == np.int32


def test_data_without_categories_has_none():
  for text in ({}, {"categories": np.full(5, "", object)}):
    category_I, names = categories.leaf_categories(_dataset(text))
    assert names == [] and category_I.tolist() == [-1] * 5


def test_every_item_with_a_path_has_a_leaf():
  category_I, names = categories.leaf_categories(
    _dataset({"categories": np.array(["b", "a", "b", "a", "c"], object)})
  )
  assert names == ["a", "b", "c"] and category_I.tolist() == [1, 0, 1, 0, 2]


CODES_IM = np.array([[0, 0], [0, 1], [0, 2], [1, 2], [1, 2], [3, 2]])
CATEGORY_I = np.array([7, 7, 4, 9, 5, -1], np.int32)


def test_a_code_says_what_most_of_its_items_are():
  category_MV = categories.code_categories(CODES_IM, CATEGORY_I, 4)
  # Code 1 of codebook 0 and code 2 of codebook 1 are ties: the smaller. The
  # only item of code 3 has no category, and code 2 has no item.
  assert category_MV.tolist() == [[7, 5, -1, -1], [7, 7, 4, -1]]
  assert category_MV.dtype == np.int32


def test_no_category_at_all():
  none_I = np.full(6, -1)
  category_MV = categories.code_categories(CODES_IM, none_I, 4)
  assert (category_MV == -1).all()


def test_majorities_by_counting():
  rng = np.random.default_rng(0)
  codes_IM = rng.integers(6, size=(200, 3))
  category_I = rng.integers(-1, 5, size=200)
  category_MV = categories.code_categories(codes_IM, category_I, 6)
  for m in range(3):
    for v in range(6):
      votes_C = np.bincount(
        category_I[(codes_IM[:, m] == v) & (category_I >= 0)], minlength=5
      )
      assert category_MV[m, v] == votes_C.argmax()
