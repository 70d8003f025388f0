"""Our constrained beam search in plain torch (package licence: BSD-3-Clause).

The algorithm of `decode/beam.py` as one writes it in torch: the context once
per user, level 0 with one beam, the tree as tensors, a cache that follows its
beams' parents. What it costs is what our search has to beat.
"""

from typing import NamedTuple

import numpy as np
import torch

from holorec_jax.catalog import Catalog
from holorec_jax.export.hf import code_tokens
from holorec_jax.models.config import GeneratorConfig
from third_party.histories import check_histories
from third_party.torch_generator import TorchGenerator


class TorchTree(NamedTuple):
  """The catalogue's tree (see `holorec_jax.tree.Tree` for the numbering).

  Attributes:
    code: (nodes,) code that leads into a node.
    first_child: (inner nodes,) first child.
    num_children: (inner nodes,) children.
    first_item: (nodes,) place in leaf_items of the first item below.
    num_items: (nodes,) items below.
    leaf_items: (I,) items in code order.
    log_share_I: (I,) log share of an item in its leaf.
    fanout: (L,) most children of a node at each depth.
    largest_leaf: most items of a leaf.
  """

  code: torch.Tensor
  first_child: torch.Tensor
  num_children: torch.Tensor
  first_item: torch.Tensor
  num_items: torch.Tensor
  leaf_items: torch.Tensor
  log_share_I: torch.Tensor
  fanout: tuple[int, ...]
  largest_leaf: int


class Beams(NamedTuple):
  """Prefixes under search.

  Attributes:
    node_BM: tree node of each prefix.
    score_BM: sum of log-probabilities; -inf marks a dead slot.
  """

  node_BM: torch.Tensor
  score_BM: torch.Tensor


def copy_tree(catalog: Catalog, device: str) -> TorchTree:
  """The catalogue's tree as tensors."""
  tree = catalog.tree

  def put(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64)).to(device)

  return TorchTree(
    code=put(np.maximum(tree.code, 0)),
    first_child=put(tree.first_child),
    num_children=put(tree.num_children),
    first_item=put(tree.first_item),
    num_items=put(tree.num_items),
    leaf_items=put(tree.leaf_items),
    log_share_I=torch.from_numpy(catalog.log_share_I).to(device),
    fanout=tree.fanout,
    largest_leaf=tree.largest_leaf,
  )


class TorchSearch:
  """search(item_BT) -> items and scores, best first."""

  def __init__(
    self,
    params: dict,
    config: GeneratorConfig,
    catalog: Catalog,
    beam: int,
    k: int,
    slots: int,
    device: str = "cpu",
    network: type[TorchGenerator] = TorchGenerator,
  ):
    """Copies the weights and the tree.

    Args:
      params: the generator's parameters.
      config: its configuration; T5 must be able to express it.
      catalog: the items.
      beam: prefixes M kept per level.
      k: items returned.
      slots: most items of a history.
      device: where torch computes.
      network: as one writes it first, or with what can be merged merged.

    Raises:
      ValueError: T5 cannot express the configuration.
    """
    self.generator = network(params, config, slots, device)
    self.tree = copy_tree(catalog, device)
    self.token_IL = torch.from_numpy(
      code_tokens(catalog.codes_IL, catalog.num_codes)
    ).to(device)
    self.num_codes = catalog.num_codes
    self.over_tree = config.softmax == "tree"
    self.beam, self.k, self.device = beam, k, device

  @torch.inference_mode()
  def __call__(self, item_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recommends k items to every user.

    Args:
      item_BT: histories, left-aligned, -1 where empty, an item in each.

    Returns:
      item_BK int32 and score_BK float32, best first; -1 and -inf where the
      beam held no further item.
    """
    check_histories(item_BT)
    history_BT = torch.from_numpy(item_BT).to(self.device)
    B, L = len(item_BT), self.token_IL.shape[1]
    context = self.generator.encode(
      self.token_IL[history_BT.long()].view(B, -1),
      (history_BT >= 0).repeat_interleave(L, dim=1),
    )
    cache = self.generator.open_cache()
    root_B1 = torch.zeros((B, 1), dtype=torch.long, device=self.device)
    beams = Beams(root_B1, torch.zeros((B, 1), device=self.device))
    token_BM = None
    for level in range(L):
      logits_BMV = self.generator.level(token_BM, cache, context)
      beams, parent_BM = self._expand(beams, logits_BMV, level)
      if level < L - 1:
        token_BM = self.tree.code[beams.node_BM] + level * self.num_codes
        cache = self.generator.follow(cache, parent_BM)
    item_BK, score_BK = self._items_of_leaves(beams)
    return item_BK.int().cpu().numpy(), score_BK.cpu().numpy()

  def _expand(
    self, beams: Beams, logits_BMV: torch.Tensor, level: int
  ) -> tuple[Beams, torch.Tensor]:
    """Best continuations of all beams, and the beam each came from."""
    B, M = beams.node_BM.shape
    fanout = self.tree.fanout[level]
    slot_F = torch.arange(fanout, device=self.device)
    children_BM1 = self.tree.num_children[beams.node_BM][..., None]
    dead_BMF = slot_F >= children_BM1
    first_BM1 = self.tree.first_child[beams.node_BM][..., None]
    child_BMF = (first_BM1 + slot_F).masked_fill_(dead_BMF, 0)
    if not self.over_tree:
      logits_BMV = logits_BMV.log_softmax(dim=-1)
    log_prob_BMF = logits_BMV.gather(-1, self.tree.code[child_BMF])
    log_prob_BMF.masked_fill_(dead_BMF, -torch.inf)
    if self.over_tree:
      # Every prefix has a child: no row is without a finite number.
      log_prob_BMF = log_prob_BMF.log_softmax(dim=-1)
    score_BX = (beams.score_BM[..., None] + log_prob_BMF).view(B, -1)
    score_BM, index_BM = score_BX.topk(min(self.beam, M * fanout), dim=-1)
    node_BM = child_BMF.view(B, -1).gather(-1, index_BM)
    return Beams(node_BM, score_BM), index_BM // fanout

  def _items_of_leaves(self, beams: Beams) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaves to items, ranked by score + log share."""
    slot_G = torch.arange(self.tree.largest_leaf, device=self.device)
    dead_BMG = (slot_G >= self.tree.num_items[beams.node_BM][..., None]) | (
      beams.score_BM == -torch.inf
    )[..., None]
    place_BMG = self.tree.first_item[beams.node_BM][..., None] + slot_G
    item_BMG = self.tree.leaf_items[place_BMG.masked_fill_(dead_BMG, 0)]
    share_BMG = self.tree.log_share_I[item_BMG]
    score_BX = (
      (beams.score_BM[..., None] + share_BMG)
      .masked_fill_(dead_BMG, -torch.inf)
      .flatten(1)
    )
    score_BK, index_BK = score_BX.topk(min(self.k, score_BX.shape[1]), dim=-1)
    item_BK = item_BMG.flatten(1).gather(-1, index_BK)
    item_BK.masked_fill_(score_BK == -torch.inf, -1)
    missing = (0, self.k - item_BK.shape[1])
    return (
      torch.nn.functional.pad(item_BK, missing, value=-1),
      torch.nn.functional.pad(score_BK, missing, value=-torch.inf),
    )
