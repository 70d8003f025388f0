"""Names of codes on a small literal catalogue."""

import numpy as np

from holorec_jax.evaluate import naming

ITEMS = [
  # code, title, categories, brand
  (0, "OPI Nail Lacquer, Red Glitter 0.5 oz", "Beauty > Nails > Polish", "OPI"),
  (0, "OPI Lacquer Blue Glitter", "Beauty > Nails > Polish", "OPI"),
  (0, "Glitter for nails, OPI 2 pack", "Beauty > Nails > Polish", "OPI"),
  (1, "Argan Oil Shampoo, 300 ml", "Beauty > Hair > Shampoos", "Moroc"),
  (1, "Dry shampoo with argan oil", "Beauty > Hair > Shampoos", ""),
  (1, "Repair Shampoo 12 Ounce Argan Oil", "Beauty > Hair > Shampoos", ""),
  (3, "Matte polish", "Beauty > Nails > Polish", ""),
  (3, "Base coat", "Beauty > Nails > Polish", ""),
  (3, "Quick dry", "Beauty > Nails > Polish", ""),
  (3, "Top coat", "Beauty > Nails > Polish", ""),
  (3, "Kids shampoo", "Beauty > Hair > Shampoos", ""),
  (3, "Herbal shampoo", "Beauty > Hair > Shampoos", ""),
  (3, "Baby shampoo", "Beauty > Hair > Shampoos", ""),
  (3, "Clay mask", "Beauty > Skin > Masks", ""),
  (3, "Night cream", "Beauty > Skin > Creams", ""),
  (3, "Peeling", "Beauty > Skin > Scrubs", ""),
]
CODES_IL = np.array([[item[0]] for item in ITEMS])


def _texts(**columns):
  return {name: np.array(rows, object) for name, rows in columns.items()}


TEXT = _texts(
  title=[item[1] for item in ITEMS],
  categories=[item[2] for item in ITEMS],
  brand=[item[3] for item in ITEMS],
)


def test_category_first_then_what_sets_apart():
  (names,) = naming.name_codes(CODES_IL, TEXT, num_codes=4)
  assert names == ["Polish: Glitter, OPI", "Shampoos: Argan Oil", "", "Skin"]


def test_without_categories_words_speak():
  (names,) = naming.name_codes(CODES_IL, {"title": TEXT["title"]}, 4)
  assert names[1] == "Argan Oil, shampoo"
  assert "OPI" in names[0]


def test_nothing_to_say_is_mixed_and_unused_is_empty():
  titles = _texts(title=[""] * len(ITEMS))
  for item_text in ({}, titles):
    (names,) = naming.name_codes(CODES_IL, item_text, num_codes=4)
    assert names == ["mixed", "mixed", "", "mixed"]


def test_amounts_and_numbers_are_never_names():
  same = ["3 oz 12 pack set 500ml", "4 oz 2 pack set 500ml"] * 3
  (names,) = naming.name_codes(
    np.zeros((6, 1), int), _texts(title=same), num_codes=1
  )
  assert names == ["mixed"]


def test_ambiguous_last_names_carry_their_parent():
  paths = ["Scent > Men"] * 4 + ["Shaving > Men"] * 4 + ["Soap"] * 8
  codes_IL = np.repeat([0, 1, 2, 2], 4)[:, None]
  (names,) = naming.name_codes(codes_IL, _texts(categories=paths), 3)
  assert names == ["Scent / Men", "Shaving / Men", "Soap"]
  paths = ["Scent > Men"] * 4 + ["Scent > Women"] * 4 + ["Shaving > Men"] * 8
  (names,) = naming.name_codes(codes_IL, _texts(categories=paths), 3)
  assert names == ["Scent / Men", "Women", "Shaving / Men"]


def test_every_level_is_named_and_order_of_items_does_not_matter():
  codes_IL = np.concatenate([CODES_IL, CODES_IL[::-1]], axis=1)
  names = naming.name_codes(codes_IL, TEXT, num_codes=4)
  assert len(names) == 2 and all(len(level) == 4 for level in names)
  order = np.random.default_rng(0).permutation(len(ITEMS))
  shuffled = {name: rows[order] for name, rows in TEXT.items()}
  assert naming.name_codes(codes_IL[order], shuffled, 4) == names
