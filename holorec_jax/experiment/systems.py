"""Name -> system: the model with its loss, and how it searches.

Every system of `config.systems` is built here, and differs from the others in
nothing else.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.codes import Codes, device_codes
from holorec_jax.decode.engine import Engine, TreeEngine
from holorec_jax.decode.ranking import RankingEngine
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.decode.set_space import index_of
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.meaning import Meaning
from holorec_jax.models.config import Thought
from holorec_jax.models.generator import Generator
from holorec_jax.models.sasrec import SasRec
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.set_index import SetIndex
from holorec_jax.train.objective import GeneratorObjective, Objective
from holorec_jax.train.s2gr_loss import S2grObjective
from holorec_jax.train.sasrec_loss import SasRecObjective
from holorec_jax.train.set_loss import SetObjective


@dataclasses.dataclass(frozen=True)
class System:
  """What training and search need of a system.

  Attributes:
    objective: what is trained.
    engine: how it is searched.
    codes: makes what the objective reads of the catalogue.
    generator: the model, where it decodes the levels of a code string one by
      one and can be asked for its thoughts.
  """

  objective: Objective
  engine: Engine
  codes: Callable[[], Codes]
  generator: Generator | None = None


def _generator(
  config: Config, built: Catalog, thought: Thought, aligned: bool = False
) -> Generator:
  return Generator(
    config=dataclasses.replace(config.model, thought=thought),
    num_levels=built.codes_IL.shape[1],
    num_codes=built.num_codes,
    num_aligned=built.sids_IRL.shape[1] - 1 if aligned else 0,
  )


def _codes(
  config: Config, built: Catalog, sets: SetIndex | None = None
) -> Callable[[], Codes]:
  softmax = config.model.softmax
  return functools.partial(device_codes, built, softmax, sets=sets)


def _stepwise(
  objective: GeneratorObjective | S2grObjective, config: Config, built: Catalog
) -> System:
  """Search has none of training's kernels: it is exported for any platform."""
  model = objective.model
  model = model.clone(
    config=dataclasses.replace(model.config, fused_attention=False)
  )
  engine = TreeEngine(model, config.search.room)
  return System(objective, engine, _codes(config, built), model)


def make_holorec(
  config: Config,
  built: Catalog,
  meaning: Meaning,
  thought: Thought,
  aligned: bool = False,
) -> System:
  """HoloRec in one of its modes, or without what it adds."""
  del meaning
  model = _generator(config, built, thought, aligned)
  return _stepwise(GeneratorObjective(model, config.loss), config, built)


def make_s2gr(config: Config, built: Catalog, meaning: Meaning) -> System:
  """S2GR: thoughts that are supervised with clusters of codes."""
  model = _generator(config, built, "s2gr")
  cluster_LV = meaning.cluster_LV
  if cluster_LV is None:  # as where only its search is measured
    cluster_LV = np.zeros((model.num_levels, model.num_codes), np.int32)
  return _stepwise(S2grObjective(model, config.s2gr, cluster_LV), config, built)


def make_reg4rec(config: Config, built: Catalog, meaning: Meaning) -> System:
  """REG4Rec: unordered codes, the most confident codebook first."""
  model = SetGenerator(
    dataclasses.replace(config.model, thought="none"),
    num_codebooks=built.codes_IL.shape[1],
    num_codes=built.num_codes,
    heads=config.reg4rec.heads,
  )
  order = "any" if config.search.any_order else config.reg4rec.order
  engine = SetEngine(model, config.search.room, order, meaning.category_LV)
  index, repeats = None, config.model.repeat_bias
  if repeats or config.model.softmax == "tree":
    index = index_of(built)
  objective = SetObjective(model, config.reg4rec, index)
  codes = _codes(config, built, index if repeats else None)
  return System(objective, engine, codes)


def make_sasrec(config: Config, built: Catalog, meaning: Meaning) -> System:
  """The item-id baseline."""
  del meaning
  model = SasRec(config.sasrec, built.num_items)
  return System(
    SasRecObjective(model, config.sasrec_loss),
    RankingEngine(model),
    _codes(config, built),
  )


MAKERS: dict[str, Callable[[Config, Catalog, Meaning], System]] = {
  "thinking": functools.partial(make_holorec, thought="holorec"),
  "non_thinking": functools.partial(make_holorec, thought="none", aligned=True),
  "pause": functools.partial(make_holorec, thought="pause"),
  "plain": functools.partial(make_holorec, thought="none"),
  "s2gr": make_s2gr,
  "reg4rec": make_reg4rec,
  "sasrec": make_sasrec,
}


def generates_codes(name: str) -> bool:
  """Whether the system generates codes, instead of scoring items."""
  return MAKERS[name] is not make_sasrec


def make_system(
  config: Config, built: Catalog, name: str, meaning: Meaning | None = None
) -> System:
  """The system of a name.

  Args:
    config: of the run.
    built: the catalogue.
    name: of config.SYSTEMS.
    meaning: of the codes (`meaning.find_meaning`); None: search alone.
  """
  return MAKERS[name](config, built, meaning or Meaning())
