"""Equal layers as one: their parameters stacked, gone through by `lax.scan`.

A program of many layers is then as long, and compiles as fast, as one of a
single layer. Parameters lie under "layers" with one more axis in front
(Y, one entry a layer) instead of under blocks_0, blocks_1, ..; `stack_layers`
and `unstack_layers` go from one layout to the other. On a mesh every layer's
parameters are gathered when its turn comes.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.models.config import Remat

# layer(params, x, own, rngs) -> (x, output): one layer, with what it has of its
# own beside its parameters.
LayerFn = Callable[[dict, jax.Array, Any, dict | None], tuple[jax.Array, Any]]

# What a layer keeps for the backward pass beside its inputs. Products of tokens
# with matrices have no batch axes; those of attention have, and are repeated
# (and with them its matrices where branches read states: `attend_states`).
POLICIES: dict[Remat, Callable | None] = {
  "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "layers": None,
}

_BLOCK = re.compile(r"blocks_(\d+)")
# Modules whose blocks are stacked.
_STACKS = ("encoder", "decoder")


def init_layers(
  block: nn.Module, depth: int, *args: Any, method: Callable | None = None
) -> Callable[[jax.Array], dict]:
  """Initialiser (for `Module.param`) of the parameters of `depth` blocks.

  Args:
    block: one of them, bound to no parent.
    depth: how many.
    *args: of a call that reads all of its parameters.
    method: what to call instead of the block itself.
  """

  def init(key: jax.Array) -> dict:
    keys_Y = jax.random.split(key, depth)
    return jax.vmap(
      lambda key: block.init(key, *args, method=method)["params"]
    )(keys_Y)

  return init


def rematerialise(block: type[nn.Module], remat: Remat, static: int) -> Any:
  """The class of one layer, unrolled, that keeps what `remat` says.

  Args:
    block: whose call is meant.
    remat: as in `GeneratorConfig`.
    static: which argument of the call, self counted, is no array.
  """
  if remat == "none":
    return block
  return nn.remat(block, static_argnums=static, policy=POLICIES[remat])


def scan_layers(
  layer: LayerFn,
  params: dict,
  x: jax.Array,
  own: Any = None,
  dropout_key: jax.Array | None = None,
  remat: Remat = "none",
) -> tuple[jax.Array, Any]:
  """Sends x through all layers.

  Args:
    layer: one of them.
    params: stacked.
    x: what the first is given, of the shape of what each gives the next.
    own: what each layer has of its own: trees with Y in front.
    dropout_key: equal keys drop the same units, differing from layer to layer.
    remat: as in `GeneratorConfig`. Gathered parameters are not kept either.

  Returns:
    What the last layer gives, and all outputs with Y in front.
  """
  numbers_Y = jnp.arange(len(jax.tree.leaves(params)[0]))

  def body(x, each):
    params, own, number = each
    rngs = None
    if dropout_key is not None:
      rngs = {"dropout": jax.random.fold_in(dropout_key, number)}
    return layer(sharding.constrain(params), x, own, rngs)

  if remat != "none":
    # A loop's body is in no danger of being merged with what it repeats.
    body = jax.checkpoint(body, prevent_cse=False, policy=POLICIES[remat])
  return jax.lax.scan(body, x, (params, own, numbers_Y))


def stack_layers(params: dict) -> dict:
  """Parameters of the unrolled model -> those of the scanned one."""

  def stack(name: str, tree: Any) -> Any:
    if not isinstance(tree, dict):
      return tree
    if name not in _STACKS:
      return {key: stack(key, value) for key, value in tree.items()}
    rest = {k: v for k, v in tree.items() if not _BLOCK.fullmatch(k)}
    blocks = [tree[f"blocks_{n}"] for n in range(len(tree) - len(rest))]
    if blocks:
      rest[sharding.STACKED] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
    return rest

  return stack("", params)


def unstack_layers(params: dict) -> dict:
  """Parameters of the scanned model -> those of the unrolled one."""

  def unstack(name: str, tree: Any) -> Any:
    if not isinstance(tree, dict):
      return tree
    if name not in _STACKS:
      return {key: unstack(key, value) for key, value in tree.items()}
    rest = {k: v for k, v in tree.items() if k != sharding.STACKED}
    stacked = tree.get(sharding.STACKED, {})
    depth = len(jax.tree.leaves(stacked)[0]) if stacked else 0
    for number in range(depth):
      rest[f"blocks_{number}"] = jax.tree.map(lambda x, n=number: x[n], stacked)
    return rest

  return unstack("", params)
