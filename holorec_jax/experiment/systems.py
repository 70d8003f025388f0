"""Name -> system: the model with its loss, and how it searches.

Every system of `config.systems` is built here, and differs from the others in
nothing else.
"""

import dataclasses
from collections.abc import Callable

from holorec_jax import catalog
from holorec_jax.decode.engine import Engine, TreeEngine
from holorec_jax.experiment.config import Config
from holorec_jax.models.config import Thought
from holorec_jax.models.generator import Generator
from holorec_jax.train.objective import GeneratorObjective, Objective


@dataclasses.dataclass(frozen=True)
class System:
  """What training and search need of a system.

  Attributes:
    objective: what is trained.
    engine: how it is searched.
    generator: the model, where it decodes the levels of a code string one by
      one and can be asked for its thoughts.
  """

  objective: Objective
  engine: Engine
  generator: Generator | None


def make_generator(
  config: Config,
  built: catalog.Catalog,
  thought: Thought,
  aligned: bool = False,
) -> Generator:
  """The stepwise generator for a catalogue's codes."""
  return Generator(
    config=dataclasses.replace(config.model, thought=thought),
    num_levels=built.codes_IL.shape[1],
    num_codes=built.num_codes,
    num_aligned=built.sids_IRL.shape[1] - 1 if aligned else 0,
  )


def _holorec(thought: Thought, aligned: bool = False) -> Callable:
  def make(config: Config, built: catalog.Catalog) -> System:
    model = make_generator(config, built, thought, aligned)
    return System(
      GeneratorObjective(model, config.loss),
      TreeEngine(model, config.search.room),
      model,
    )

  return make


MAKERS: dict[str, Callable[[Config, catalog.Catalog], System]] = {
  "thinking": _holorec("holorec"),
  "non_thinking": _holorec("none", aligned=True),
  "pause": _holorec("pause"),
  "plain": _holorec("none"),
}


def make_system(config: Config, built: catalog.Catalog, name: str) -> System:
  """The system of a name, for a catalogue."""
  return MAKERS[name](config, built)
