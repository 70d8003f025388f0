"""The encoder's input, and the way to the extra."""

import importlib.util

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.vectors import sentence


def test_sentences_lead_with_the_title_and_skip_what_is_missing():
  item_text = {
    "brand": np.array(["Acme", "", ""], object),
    "categories": np.array(["A > B", "A", ""], object),
    "title": np.array(["Soap", "", ""], object),
  }
  assert sentence.sentences(item_text) == ["Soap. A > B. Acme", "A", ""]


@pytest.mark.skipif(
  importlib.util.find_spec("sentence_transformers") is not None,
  reason="the extra is installed",
)
def test_without_the_extra_the_message_has_the_command():
  with pytest.raises(UserError, match="pip install 'holorec_jax"):
    sentence.encode({"title": np.array(["Soap"], object)}, "model")
