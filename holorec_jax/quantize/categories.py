"""What category a code stands for: most of its items' leaf (methods 3.1).

REG4Rec (arXiv 2508.15308) rewards and prunes reasoning paths by the categories
of their codes; that a code's category is the majority of its items' is ours.
"""

import numpy as np

from holorec_jax.data.schema import Dataset

NONE = -1


def leaf_categories(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
  """Each item's most specific category.

  A leaf is a whole path of the column "categories", so "Men's" below
  "Fragrance" and below "Shaving" are two. An item whose path stops early has
  the node where it stops.

  Returns:
    category_I int32, rows of the names, NONE for items without a path; and the
    names (paths) in alphabetical order.
  """
  absent_I = np.full(dataset.num_items, "", object)
  path_I = dataset.item_text.get("categories", absent_I)
  rows = {name: row for row, name in enumerate(sorted(set(path_I) - {""}))}
  rows[""] = NONE
  category_I = np.fromiter((rows[p] for p in path_I), np.int32, len(path_I))
  del rows[""]
  return category_I, list(rows)


def code_categories(
  codes_IM: np.ndarray, category_I: np.ndarray, num_codes: int
) -> np.ndarray:
  """The category that most of a code's items have.

  Items without a category have no vote; ties go to the smaller category.

  Args:
    codes_IM: codes of the items per codebook (or level).
    category_I: their categories, NONE where there is none.
    num_codes: V.

  Returns:
    category_MV int32, NONE for codes without items that have one.
  """
  codebooks = codes_IM.shape[1]
  category_MV = np.full((codebooks, num_codes), NONE, np.int32)
  votes_I = category_I != NONE
  for codebook in range(codebooks):
    pairs_P2, votes_P = np.unique(
      np.stack([codes_IM[votes_I, codebook], category_I[votes_I]], 1),
      axis=0,
      return_counts=True,
    )
    code_P, said_P = pairs_P2.T
    order_P = np.lexsort((said_P, -votes_P, code_P))
    code_C, first_C = np.unique(code_P[order_P], return_index=True)
    category_MV[codebook, code_C] = said_P[order_P][first_C]
  return category_MV
