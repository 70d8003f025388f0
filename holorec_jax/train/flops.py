"""Model FLOPs of a training step: three times its forward matrix products.

The backward pass of a matrix product takes two of the same size. Products are
counted in the traced program, each turn of a scan for itself (XLA's own cost
analysis counts a loop's body once); recomputation by rematerialisation is no
work of the model, so the backward pass is not looked at. Lookups, softmax and
all that works element by element are left out, and so is what a fused kernel
hides: there the figure is too small, never too great.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from holorec_jax.train.objective import Objective
from holorec_jax.types import Batch


def make_flops(
  objective: Objective, params: Any, codes: Any
) -> Callable[[Batch], float]:
  """batch -> model FLOPs of a step on it; counted once for each shape.

  Args:
    objective: what is minimised.
    params: arrays or their shapes, as the codes.
    codes: of the catalogue.
  """
  params, codes = jax.tree.map(_shape, (params, codes))

  @functools.cache
  def of_shapes(leaves: tuple, structure: Any) -> float:
    batch = jax.tree.unflatten(structure, leaves)
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(objective.loss)(params, batch, codes, key)
    return 3.0 * count_products(traced.jaxpr)

  def flops(batch: Batch) -> float:
    leaves, structure = jax.tree.flatten(jax.tree.map(_shape, batch))
    return of_shapes(tuple(leaves), structure)

  return flops


def _shape(x: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def count_products(jaxpr: core.Jaxpr) -> float:
  """FLOPs of all matrix products; of branches the dearest counts."""
  total = 0.0
  for equation in jaxpr.eqns:
    name, values = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = values["dimension_numbers"]
      left: Any = equation.invars[0].aval
      product: Any = equation.outvars[0].aval
      depth = math.prod(left.shape[axis] for axis in contracted)
      total += 2.0 * math.prod(product.shape) * depth
      continue
    inner = [count_products(body) for body in _bodies(values)]
    if name == "cond":
      total += max(inner)
    else:
      total += sum(inner) * (values["length"] if name == "scan" else 1)
  return total


def _bodies(values: dict[str, Any]) -> list[core.Jaxpr]:
  """The programs inside an equation."""
  leaves = jax.tree.leaves(
    list(values.values()),
    is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
  )
  return [
    leaf.jaxpr if isinstance(leaf, core.ClosedJaxpr) else leaf
    for leaf in leaves
    if isinstance(leaf, core.Jaxpr | core.ClosedJaxpr)
  ]
