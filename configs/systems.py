"""What tells systems and their ablations apart: a few leaves each.

`choose` applies a variant, the name behind the colon of a config file, to a
config that holds data and network already. Every variant starts from the same
leaves, so that rows of launch/compare.py differ in what is written here.
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from holorec_jax.errors import UserError

Leaves = dict[str, Any]


def _variant(system: str, codes: Leaves, leaves: Leaves) -> Leaves:
  """Leaves by `section__leaf`, those that the system trains first."""
  return {"systems": (system,)} | codes | leaves


def _holorec(system: str = "thinking", **leaves) -> Leaves:
  return _variant(system, {}, leaves)


def _tiger(**leaves) -> Leaves:
  """TIGER's codes: one granularity, collisions numbered by a further level."""
  codes = {
    "sid__nested__dims": (32,),
    "sid__nested__balance": 0.0,
    "catalog__collisions": "extra_level",
  }
  return _variant("plain", codes, leaves)


def _s2gr(system: str = "s2gr", **leaves) -> Leaves:
  """S2GR's codes: three levels, smoothed vectors, uniformity, balance."""
  codes = {
    "sid__nested__dims": (32,),
    "sid__nested__levels": 3,
    "sid__nested__uniformity": 0.1,
    "vectors__window": 5,
    "vectors__decay": 1.0,
    "vectors__neighbours": 50,
    "vectors__smooth_hops": 3,
    "vectors__smooth_alpha": 0.5,
  }
  return _variant(system, codes, leaves)


def _reg4rec(system: str = "reg4rec", **leaves) -> Leaves:
  """REG4Rec's codes: parallel codebooks, in any order.

  Two things differ from the paper, by Beauty's validation NDCG@10 (2,000 users,
  6 epochs, one seed). Experts may be redundant: kept uncorrelated, a code tells
  less of the next item's (weight 0.2: .0339, 0: .0371); items of equal codes
  are moved to free codes nearby instead of sharing a leaf (.0426, .0371).
  """
  codes = {
    "catalog__collisions": "reassign",
    "sid__quantizer": "parallel",
    "sid__parallel__redundancy": 0.0,
  }
  return _variant(system, codes, leaves)


def _sasrec(**leaves) -> Leaves:
  """No codes; those of the artefacts are of the quickest quantizer."""
  return _variant("sasrec", {"sid__quantizer": "rq_kmeans"}, leaves)


# What a system trains best with on small data and a CPU, where that is not what
# its paper has (the dataclasses' defaults). S2GR by Beauty's validation NDCG@10
# (2,000 users): .0395 with all losses at 1, .0511 so, .0485 without InfoNCE.
# REG4Rec's linear heads and little weight on codebooks that wait learn faster.
_TUNED: dict[str, Leaves] = {
  "s2gr": {"s2gr__align": 0.1, "s2gr__nce": 0.01},
  "reg4rec": {"reg4rec__heads": "linear", "reg4rec__waiting": 0.1},
  "sasrec": {
    "sasrec__d_model": 64,
    "sasrec__num_heads": 2,
    "sasrec__d_ff": 128,
    "optim__learning_rate": 8e-3,
  },
}
# Histories as code tokens through a bidirectional encoder, one target a row,
# probabilities among all codes of a level, no biases of ours.
_ONE_TARGET: Leaves = {
  "input__rows": "one_target",
  "input__max_history": 20,
  "input__length_buckets": (2, 3, 4, 6, 8, 12, 16, 20),
  "model__history": "codes",
  "model__causal_history": False,
  "model__start": "bos",
  "model__softmax": "level",
  "model__cross_bias": False,
  "model__repeat_bias": False,
}
# Cosines, of all codebooks that wait, over all of their codes.
_PAPER_HEADS: Leaves = {
  "reg4rec__heads": "cosine",
  "reg4rec__waiting": 1.0,
  "model__softmax": "level",
}
_RQ_CODES: Leaves = {"sid__quantizer": "nested", "sid__nested__dims": (32,)}

VARIANTS: dict[str, Leaves] = {
  # HoloRec, its modes, its ablations. The paper, the full size and the pod's
  # have a gate and rows of 8, 16 and 32 dimensions (coarse_8_gate); the others
  # have neither.
  "thinking": _holorec(),
  "non_thinking": _holorec("non_thinking"),
  "pause": _holorec("pause"),
  "published": _holorec(sids_path="reference_sids/holorec_rows_8_16_32.json"),
  "no_nesting": _holorec(sid__nested__dims=(32,)),
  "no_holo": _holorec(sid__nested__holistic="off"),
  "holo_cumulative": _holorec(sid__nested__holistic="cumulative"),
  "no_align_heads": _holorec("plain"),
  "gate": _holorec(model__thought_gate=True),
  "no_carry": _holorec(model__thought_carry=False),
  "no_match": _holorec(loss__thought_match=0.0),
  "no_coarse": _holorec(loss__thought=0.0),
  "coarse_4": _holorec(sid__nested__dims=(4, 16, 32)),
  "coarse_8": _holorec(sid__nested__dims=(8, 16, 32)),
  "coarse_8_gate": _holorec(
    sid__nested__dims=(8, 16, 32), model__thought_gate=True
  ),
  # TIGER.
  "tiger": _tiger(),
  "tiger_leaf": _tiger(catalog__collisions="leaf"),
  "tiger_paper": _tiger(**_ONE_TARGET),
  # S2GR.
  "s2gr": _s2gr(),
  "s2gr_pause": _s2gr("pause"),
  "s2gr_none": _s2gr("plain"),
  "s2gr_no_graph": _s2gr(vectors__smooth_hops=0),
  "s2gr_no_uniformity": _s2gr(sid__nested__uniformity=0.0),
  "s2gr_no_balance": _s2gr(sid__nested__balance=0.0),
  "s2gr_no_align": _s2gr(s2gr__align=0.0),
  "s2gr_no_guide": _s2gr(s2gr__nce=0.0),
  "s2gr_upfront": _s2gr(model__think="upfront"),
  # REG4Rec.
  "reg4rec": _reg4rec(),
  "reg4rec_paper_heads": _reg4rec(**_PAPER_HEADS),
  "reg4rec_cosine": _reg4rec(reg4rec__heads="cosine"),
  "reg4rec_waiting": _reg4rec(reg4rec__waiting=1.0),
  "reg4rec_level": _reg4rec(model__softmax="level"),
  "reg4rec_no_repeats": _reg4rec(model__repeat_bias=False),
  "reg4rec_leaf": _reg4rec(catalog__collisions="leaf"),
  "reg4rec_corp": _reg4rec(search__corp=True),
  "reg4rec_any_order": _reg4rec(search__any_order=True),
  "reg4rec_fixed": _reg4rec(reg4rec__fixed_order=True),
  "reg4rec_rqvae": _reg4rec(**_RQ_CODES),
  "reg4rec_plain": _reg4rec("plain"),
  "reg4rec_2": _reg4rec(sid__parallel__codebooks=2),
  "reg4rec_6": _reg4rec(sid__parallel__codebooks=6),
  "reg4rec_8": _reg4rec(sid__parallel__codebooks=8),
  # Of its alignment alone (launch/compare.py --align): the target instead of a
  # window of next items, no reward of a kind.
  "reg4rec_no_msra": _reg4rec(preference__reward__window=1),
  "reg4rec_no_step_hit": _reg4rec(preference__reward__step_hit=0.0),
  "reg4rec_no_global_path": _reg4rec(preference__reward__global_path=0.0),
  "reg4rec_no_category_hit": _reg4rec(preference__reward__category_hit=0.0),
  "reg4rec_no_consistency": _reg4rec(preference__reward__consistency=0.0),
  # SASRec.
  "sasrec": _sasrec(),
  "sasrec_bce": _sasrec(sasrec_loss__loss="bce"),
  "sasrec_bpr": _sasrec(sasrec_loss__loss="bpr"),
}


def choose(
  config: ConfigDict, variant: str, *, tuned: bool = True
) -> ConfigDict:
  """The config of a variant.

  Args:
    config: data, network and optimiser; changed in place.
    variant: one of VARIANTS.
    tuned: with the system's weights for small data instead of its paper's.

  Raises:
    UserError: there is no such variant.
  """
  if variant not in VARIANTS:
    raise UserError(
      f"there is no variant {variant!r}; behind the colon goes one of"
      f" {', '.join(VARIANTS)}."
    )
  leaves = VARIANTS[variant]
  if tuned:
    leaves = _TUNED.get(leaves["systems"][0], {}) | leaves
  for name, value in leaves.items():
    *sections, leaf = name.split("__")
    functools.reduce(lambda part, key: part[key], sections, config)[leaf] = (
      value
    )
  return config
