"""Constrained beam search by transformers' `generate` (licence: Apache-2.0).

The way in which it is usually done: `prefix_allowed_tokens_fn` looks every
beam's prefix up in a Python dict. `generate` takes the log-softmax over the
whole vocabulary and masks it then. Renormalised over what is allowed
(`renormalize_logits`), that is softmax="tree" of the generator; for "level",
`LevelSoftmax` comes before the mask, which then has to be handed over as a
processor, too.
"""

from collections.abc import Callable

import numpy as np
import torch
from transformers import (
  LogitsProcessor,
  LogitsProcessorList,
  PrefixConstrainedLogitsProcessor,
)

from holorec_jax.catalog import Catalog
from holorec_jax.export.hf import code_tokens
from holorec_jax.models.config import GeneratorConfig
from third_party.histories import check_histories
from third_party.transformers_t5 import copy_to_seq2seq

# generate() starts M - 1 of M beams at -1e9; what is down there is no item.
NO_ITEM = -1e8


class PrefixTrie:
  """Allowed next tokens of every prefix, in a dict.

  Called as `prefix_allowed_tokens_fn`: with a user's number and the tokens of
  a beam, the first of which is BOS.
  """

  def __init__(self, token_IL: np.ndarray):
    sets: dict[tuple[int, ...], set[int]] = {}
    for row in token_IL.tolist():
      for level, token in enumerate(row):
        sets.setdefault(tuple(row[:level]), set()).add(token)
    self.allowed = {prefix: sorted(tokens) for prefix, tokens in sets.items()}

  def __call__(self, user: int, tokens: torch.Tensor) -> list[int]:
    return self.allowed[tuple(tokens.tolist()[1:])]


class LevelSoftmax(LogitsProcessor):
  """Shares all probability among the codes of the level that comes next."""

  def __init__(self, num_codes: int):
    self.num_codes = num_codes

  def __call__(
    self, input_ids: torch.Tensor, scores: torch.Tensor
  ) -> torch.Tensor:
    # The first token is BOS.
    first = (input_ids.shape[1] - 1) * self.num_codes
    level = slice(first, first + self.num_codes)
    shared = torch.full_like(scores, -torch.inf)
    shared[:, level] = scores[:, level].log_softmax(dim=-1)
    return shared


def make_search(
  params: dict,
  config: GeneratorConfig,
  catalog: Catalog,
  beam: int,
  k: int,
  device: str = "cpu",
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Copies the weights and builds the trie.

  Args:
    params: the generator's parameters.
    config: its configuration; T5 must be able to express it.
    catalog: items, no two of which share all codes.
    beam: prefixes M kept per level; at least 2, else transformers searches
      greedily.
    k: items returned, at most M.
    device: where torch computes.

  Returns:
    search(item_BT) -> (item_BK int32, score_BK float32), best first; -1 and
    -inf where the beam held no further item. Histories are left-aligned,
    -1 where empty, and hold an item each.

  Raises:
    ValueError: T5 cannot express the configuration, or items share a leaf.
  """
  if catalog.tree.largest_leaf > 1:
    raise ValueError("transformers returns code rows; here items share them")
  model = copy_to_seq2seq(params, config).to(device)
  token_IL = code_tokens(catalog.codes_IL, catalog.num_codes)
  item_of = {tuple(row): item for item, row in enumerate(token_IL.tolist())}
  constraint = _constrain(config, PrefixTrie(token_IL), catalog, beam)

  def search(item_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_histories(item_BT)
    mask_BC = np.repeat(item_BT >= 0, token_IL.shape[1], axis=1)
    token_BC = token_IL[item_BT].reshape(mask_BC.shape)
    with torch.inference_mode():
      found = model.generate(
        input_ids=torch.from_numpy(token_BC).to(device),
        attention_mask=torch.from_numpy(mask_BC).long().to(device),
        num_beams=beam,
        num_return_sequences=k,
        max_new_tokens=token_IL.shape[1],
        do_sample=False,
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
        **constraint,
      )
    rows = found.sequences[:, 1:].tolist()
    item_BK = np.array([item_of.get(tuple(row), -1) for row in rows], np.int32)
    score_BK = found.sequences_scores.cpu().numpy()
    missing = (item_BK < 0) | (score_BK < NO_ITEM)
    return (
      np.where(missing, -1, item_BK).reshape(-1, k),
      np.where(missing, np.float32(-np.inf), score_BK).reshape(-1, k),
    )

  return search


def _constrain(
  config: GeneratorConfig, trie: PrefixTrie, catalog: Catalog, beam: int
) -> dict:
  """What `generate` needs to stay within the tree, with our probabilities."""
  if config.softmax == "tree":
    return {"prefix_allowed_tokens_fn": trie, "renormalize_logits": True}
  processors = [
    LevelSoftmax(catalog.num_codes),
    PrefixConstrainedLogitsProcessor(trie, beam),
  ]
  return {"logits_processor": LogitsProcessorList(processors)}
