"""Generative recommenders with semantic IDs in JAX: HoloRec and its kin.

Data takes one way through the package, and imports only point backwards:

  data -> vectors -> quantize -> catalog, tree -> nn, models -> decode -> train
       -> evaluate -> experiment -> export -> serve

Shape legend: every tensor that lives longer than a line carries its shape as a
suffix, and einsum letters are the same in lower case.

  B batch         T history items    N branches (targets)   L code levels
  V codes/level   R granularities    M beams                D model width
  H heads         K head width       F mlp width            I items
  S cache slots   Q clusters         U users                C context tokens
  G query heads per key head           Y stacked layers
  X a count of its own, as told where it stands
"""
