"""Paths of codes that a generator draws, and how probable they are.

What preference alignment (methods 3.3) needs of a system. A path leads to an
item of the catalogue: every step draws among the codes that continue it to
one, and its probabilities are shared among these alone, whatever the supervised
loss shares them among. So what is drawn has exactly the probability that is
trained. Drawing and scoring are one walk that differs in who chooses. Nothing
is dropped out.

G paths of one user are G branches on one context, as in training. M is the
number of steps: levels of ordered codes, codebooks of a set.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.codes import Codes
from holorec_jax.decode.search_tree import SearchTree, children
from holorec_jax.decode.set_space import Lattice
from holorec_jax.models.generator import Generator
from holorec_jax.models.set_generator import (
  Order,
  SetGenerator,
  next_codebook,
  restrict,
)


@struct.dataclass
class Paths:
  """G paths of every user.

  Attributes:
    item_BG: int32 items that they lead to.
    codebook_BGM: int32 codebook (or level) of each step.
    log_prob_BGM: float32 log-probability of each step's code.
    entropy_BGM: float32 entropy of the distribution that it was one of.
  """

  item_BG: jax.Array
  codebook_BGM: jax.Array
  log_prob_BGM: jax.Array
  entropy_BGM: jax.Array


class Policy(Protocol):
  """A generator as a distribution over paths; parameters come cast."""

  @property
  def ordered(self) -> bool:
    """Whether a code means something only after the codes before it."""

  def sample(
    self,
    params: dict,
    codes: Codes,
    index: Any,
    item_BT: jax.Array,
    group: int,
    temperature: float,
    key: jax.Array,
  ) -> Paths:
    """Draws G paths of every user.

    Args:
      params: in the compute dtype.
      codes: of the catalogue.
      index: of the catalogue, as the system's engine places it.
      item_BT: histories, oldest first, left-aligned, -1 where empty.
      group: G.
      temperature: of the logits.
      key: of the draws.
    """

  def score(
    self,
    params: dict,
    codes: Codes,
    index: Any,
    item_BT: jax.Array,
    paths: Paths,
    temperature: float,
  ) -> Paths:
    """The same paths, with probabilities under these parameters."""


# choose(step, log_prob_BGF, name_BGF) -> slot_BG: which of the continuations,
# given by their codes (or tokens), a path takes.
Choose = Callable[[int, jax.Array, jax.Array], jax.Array]


def _draw(key: jax.Array) -> Choose:
  return lambda step, log_prob_BGF, name_BGF: jax.random.categorical(
    jax.random.fold_in(key, step), log_prob_BGF
  )


def _follow(name_BGM: jax.Array) -> Choose:
  return lambda step, log_prob_BGF, name_BGF: jnp.argmax(
    (name_BGF == name_BGM[..., step, None]) & (log_prob_BGF > -jnp.inf), axis=-1
  )


def _branches(item_BT: jax.Array, group: int) -> tuple[jax.Array, jax.Array]:
  """Segments of one history a row, and the last slot of each branch."""
  filled_BT = item_BT >= 0
  last_B1 = jnp.maximum(jnp.sum(filled_BT, axis=1, keepdims=True) - 1, 0)
  return filled_BT.astype(jnp.int32), jnp.repeat(last_B1, group, axis=1)


def _at(x_BGF: jax.Array, slot_BG: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x_BGF, slot_BG[..., None], axis=-1)[..., 0]


def _share(logits_BGF, valid_BGF) -> tuple[jax.Array, jax.Array]:
  """Log-softmax over the valid continuations, and its entropy."""
  log_prob_BGF = jax.nn.log_softmax(logits_BGF, axis=-1, where=valid_BGF)
  log_prob_BGF = jnp.where(valid_BGF, log_prob_BGF, -jnp.inf)
  finite_BGF = jnp.where(valid_BGF, log_prob_BGF, 0.0)
  share_BGF = jnp.where(valid_BGF, jnp.exp(finite_BGF), 0.0)
  return log_prob_BGF, -jnp.sum(share_BGF * finite_BGF, axis=-1)


def _draw_item(index, leaf_BG: jax.Array, place, key: jax.Array) -> jax.Array:
  """Items of leaves, each drawn by its share of the leaf.

  Args:
    index: the tree or lattice.
    leaf_BG: what `num_items` and `first_item` are indexed by.
    place: largest_leaf slots.
    key: of the draw.
  """
  place_BGX = index.first_item[leaf_BG][..., None] + place
  held_BGX = place < index.num_items[leaf_BG][..., None]
  item_BGX = index.leaf_items[jnp.where(held_BGX, place_BGX, 0)]
  log_share_BGX = jnp.where(held_BGX, index.log_share_I[item_BGX], -jnp.inf)
  return _at(item_BGX, jax.random.categorical(key, log_share_BGX))


@dataclasses.dataclass(frozen=True)
class TreePolicy:
  """Ordered codes over the tree of valid code strings.

  Attributes:
    model: the stepwise generator; its thoughts are latent.
  """

  model: Generator

  @property
  def ordered(self) -> bool:
    return True

  def sample(
    self,
    params: dict,
    codes: Codes,
    index: SearchTree,
    item_BT: jax.Array,
    group: int,
    temperature: float,
    key: jax.Array,
  ) -> Paths:
    levels, leaf = jax.random.split(key)
    node_BG, *chances = self._walk(
      params, codes, index, item_BT, group, temperature, _draw(levels)
    )
    place = jnp.arange(index.largest_leaf)
    return self._paths(_draw_item(index, node_BG, place, leaf), *chances)

  def score(
    self,
    params: dict,
    codes: Codes,
    index: SearchTree,
    item_BT: jax.Array,
    paths: Paths,
    temperature: float,
  ) -> Paths:
    item_BG = paths.item_BG
    choose = _follow(codes.fine_IL[item_BG])
    group = item_BG.shape[1]
    _, *chances = self._walk(
      params, codes, index, item_BT, group, temperature, choose
    )
    return self._paths(item_BG, *chances)

  def _paths(self, item_BG, log_prob_BGM, entropy_BGM) -> Paths:
    level_BGM = jnp.broadcast_to(
      jnp.arange(self.model.num_levels), log_prob_BGM.shape
    )
    return Paths(item_BG, level_BGM, log_prob_BGM, entropy_BGM)

  def _walk(
    self, params, codes, tree, item_BT, group, temperature, choose: Choose
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """From the root to leaves: nodes, log-probabilities, entropies."""

    def apply(method, *args) -> Any:
      return self.model.apply({"params": params}, *args, method=method)

    context = apply(
      Generator.open_branches, item_BT, codes, *_branches(item_BT, group)
    )
    state = apply(Generator.start, context)
    node_BG = jnp.zeros((len(item_BT), group), jnp.int32)
    code_BG, chances = None, []
    for level in range(self.model.num_levels):
      state, output = apply(Generator.level, state, context, level, code_BG)
      child_BGF, code_BGF, valid_BGF = children(
        tree, tree.group(level), node_BG
      )
      logits_BGF = jnp.take_along_axis(output.fine_BNV, code_BGF, axis=-1)
      log_prob_BGF, entropy_BG = _share(logits_BGF / temperature, valid_BGF)
      slot_BG = choose(level, log_prob_BGF, code_BGF)
      node_BG, code_BG = _at(child_BGF, slot_BG), _at(code_BGF, slot_BG)
      chances.append((_at(log_prob_BGF, slot_BG), entropy_BG))
    log_probs, entropies = zip(*chances)
    return node_BG, jnp.stack(log_probs, -1), jnp.stack(entropies, -1)


@dataclasses.dataclass(frozen=True)
class SetPolicy:
  """Unordered codes over the lattice of valid code sets.

  Given the model, a path's codebooks follow from its codes, so the order has
  no probability of its own. A path keeps the order that it was drawn in.

  Attributes:
    model: the generator of code sets.
    order: of the codebooks, as in supervised training.
  """

  model: SetGenerator
  order: Order = "confident"

  @property
  def ordered(self) -> bool:
    return False

  def sample(
    self,
    params: dict,
    codes: Codes,
    index: Lattice,
    item_BT: jax.Array,
    group: int,
    temperature: float,
    key: jax.Array,
  ) -> Paths:
    steps, leaf = jax.random.split(key)
    node_BG, *rest = self._walk(
      params, codes, index, item_BT, group, temperature, _draw(steps)
    )
    place = jnp.arange(index.largest_leaf)
    leaf_BG = node_BG - index.first_leaf
    return Paths(_draw_item(index, leaf_BG, place, leaf), *rest)

  def score(
    self,
    params: dict,
    codes: Codes,
    index: Lattice,
    item_BT: jax.Array,
    paths: Paths,
    temperature: float,
  ) -> Paths:
    codebook_BGM = paths.codebook_BGM
    code_BGM = jnp.take_along_axis(
      codes.fine_IL[paths.item_BG], codebook_BGM, axis=-1
    )
    _, *rest = self._walk(
      params,
      codes,
      index,
      item_BT,
      paths.item_BG.shape[1],
      temperature,
      _follow(codebook_BGM * self.model.num_codes + code_BGM),
      codebook_BGM,
    )
    return Paths(paths.item_BG, *rest)

  def _walk(
    self,
    params,
    codes,
    lattice: Lattice,
    item_BT,
    group,
    temperature,
    choose: Choose,
    codebook_BGM: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """From the root to leaves: nodes, codebooks, log-probs, entropies.

    With `codebook_BGM` in that order, else in the model's.
    """
    V = self.model.num_codes

    def apply(method, *args) -> Any:
      return self.model.apply({"params": params}, *args, method=method)

    context = apply(
      SetGenerator.open_branches, item_BT, codes, *_branches(item_BT, group)
    )
    state = apply(SetGenerator.start)
    node_BG = jnp.zeros((len(item_BT), group), jnp.int32)
    unused_BGM = jnp.ones((*node_BG.shape, self.model.num_codebooks), bool)
    turn_BG = code_BG = None
    taken = []
    for step in range(self.model.num_codebooks):
      state, logits_BGMV = apply(
        SetGenerator.step, state, context, turn_BG, code_BG
      )
      if self.model.config.softmax == "tree":
        # The order that training and search follow.
        logits_BGMV = restrict(logits_BGMV, lattice.valid(step, node_BG))
      if codebook_BGM is None:
        turn_BG = next_codebook(logits_BGMV, unused_BGM, self.order)
      else:
        turn_BG = codebook_BGM[..., step]
      unused_BGM &= jnp.arange(unused_BGM.shape[-1]) != turn_BG[..., None]
      edge_BGF, valid_BGF = lattice.edges(step, node_BG)
      token_BGF = jnp.maximum(lattice.edge_token[edge_BGF], 0)
      valid_BGF &= token_BGF // V == turn_BG[..., None]
      logits_BGX = logits_BGMV.reshape(*node_BG.shape, -1)
      logits_BGF = jnp.take_along_axis(logits_BGX, token_BGF, axis=-1)
      log_prob_BGF, entropy_BG = _share(logits_BGF / temperature, valid_BGF)
      slot_BG = choose(step, log_prob_BGF, token_BGF)
      node_BG = lattice.edge_child[_at(edge_BGF, slot_BG)]
      code_BG = _at(token_BGF, slot_BG) % V
      taken.append((turn_BG, _at(log_prob_BGF, slot_BG), entropy_BG))
    codebooks, log_probs, entropies = (jnp.stack(x, -1) for x in zip(*taken))
    return node_BG, codebooks, log_probs, entropies
