"""TF-IDF + SVD: what is alike lies together, and nothing is random."""

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.vectors import cold_items, text


def _column(*rows):
  return np.array(rows, object)


TEXT = {
  "title": _column(
    "Red nail polish", "Blue nail polish", "Dry shampoo", "Herbal shampoo", ""
  ),
  "categories": _column("B > Nails", "B > Nails", "B > Hair", "B > Hair", ""),
}


def test_words_keep_numbers_and_split_unspaced_scripts():
  assert cold_items.words("L'Oréal 3D-Mascara_7") == [
    "l",
    "oréal",
    "3d",
    "mascara",
    "7",
  ]
  assert cold_items.words("洗发水 Men") == ["洗", "发", "水", "men"]


def test_path_nodes_are_whole_prefixes():
  assert cold_items.path_nodes("A > B > C") == ["A", "A > B", "A > B > C"]
  assert cold_items.path_nodes("") == []


def test_alike_items_lie_together_and_empty_ones_are_zero():
  x_ID, _ = text.fit_text(TEXT, dims=8)
  assert x_ID.dtype == np.float32
  cosine_II = x_ID @ x_ID.T
  np.testing.assert_allclose(np.diag(cosine_II), [1, 1, 1, 1, 0], atol=1e-5)
  assert cosine_II[0, 1] > 0.9 and cosine_II[2, 3] > 0.9
  assert abs(cosine_II[0, 2]) < 0.1


def test_same_seed_same_vectors():
  first, second = (text.fit_text(TEXT, 2, seed=3)[0] for _ in range(2))
  np.testing.assert_array_equal(first, second)


def test_same_word_under_other_category_path_is_another_token():
  titles = _column(*(["soap"] * 2 + ["brush"] * 6))
  same = _column(*["A > Men"] * 2, *["B > Men"] * 2, *["C"] * 4)
  x_ID, _ = text.fit_text({"title": titles, "categories": same}, 8)
  assert x_ID[0] @ x_ID[1] > 0.99
  assert x_ID[2] @ x_ID[3] > 0.99
  assert x_ID[0] @ x_ID[2] < 0.9


@pytest.mark.parametrize(
  "item_text", [{}, {"title": _column("", "")}, {"title": _column("a b", "c")}]
)
def test_text_that_says_nothing_names_the_way_out(item_text):
  with pytest.raises(UserError, match="sources=\\('cooccurrence',\\)"):
    text.fit_text(item_text, 4)
