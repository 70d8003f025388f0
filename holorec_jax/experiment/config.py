"""The resolved configuration of a run, and the systems it can train."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from holorec_jax import artifacts, config_fields
from holorec_jax.catalog import CatalogConfig
from holorec_jax.data.config import DataConfig
from holorec_jax.data.pipeline import PipelineConfig
from holorec_jax.decode.recommender import SearchConfig
from holorec_jax.errors import UserError
from holorec_jax.evaluate import metrics
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.sasrec import SasRecConfig
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.sharding import MeshConfig
from holorec_jax.train import seal
from holorec_jax.train.loop import TrainConfig
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.optimizer import OptimConfig
from holorec_jax.train.preference import PreferenceConfig
from holorec_jax.train.s2gr_loss import S2grLossConfig
from holorec_jax.train.sasrec_loss import SasRecLossConfig
from holorec_jax.train.set_loss import SetLossConfig
from holorec_jax.vectors.assemble import VectorConfig

CONFIG = "config.json"

# What each one is: `systems.MAKERS`; here the sections that it is made from.
SYSTEMS: dict[str, tuple[str, ...]] = {
  "thinking": ("model", "loss"),
  "non_thinking": ("model", "loss"),
  "pause": ("model", "loss"),
  "plain": ("model", "loss"),
  "s2gr": ("model", "s2gr"),
  "reg4rec": ("model", "reg4rec"),
  "sasrec": ("sasrec", "sasrec_loss"),
}

# Artefact of a workdir -> the sections that it is made from.
MADE_FROM: dict[str, tuple[str, ...]] = {
  "dataset": ("data",),
  "vectors": ("vectors",),
  "sids": ("sid", "sids_path"),
  # And the sections of the system.
  "checkpoints": ("systems", "catalog", "input", "optim", "train"),
}

# Leaves that say how something is done, and not what it makes: a run may go on
# with others, such as on more devices or fewer. (Raw files that lie elsewhere
# have to have the same contents.)
FREE = frozenset(
  {
    "data.items_path",
    "data.path",
    "model.fused_attention",
    "model.remat",
    "optim.accumulate",
    "train.checkpoint_every",
    "train.checkpoints",
    "train.keep_every",
    "train.log_every",
    "train.peak_tflops",
  }
)


def free(systems: Sequence[str]) -> frozenset[str]:
  """FREE, as far as these systems let it be.

  S2GR compares the targets of a part of a batch with each other.
  """
  return FREE - {"optim.accumulate"} if "s2gr" in systems else FREE


@dataclasses.dataclass(frozen=True)
class Config:
  """Every leaf of `config.*`; the sections document theirs.

  Attributes:
    systems: what to train, names of SYSTEMS; the first is the headline.
    data: source, filters, split.
    vectors: what items' content vectors are made of.
    sid: the quantizer, and the settings of each kind.
    sids_path: JSON of published codes to use instead of fitting; "" to fit. A
      relative path starts in the data's folder, as do vectors.path and
      vectors.ids_path.
    catalog: collisions.
    input: how histories become batches.
    model: the generator's shape.
    loss: loss weights of HoloRec and its controls.
    s2gr: loss weights of S2GR.
    reg4rec: orders of REG4Rec's codebooks.
    sasrec: shape of the item-id baseline.
    sasrec_loss: what it minimises.
    optim: optimiser and schedule.
    mesh: how many devices of training lie along each axis.
    train: length and rhythm of training.
    preference: alignment of a trained system.
    search: beam search of evaluation and recommendation.
    baselines: whether popularity and item-kNN, tuned on validation, are
      evaluated beside.
  """

  systems: tuple[str, ...] = ("thinking",)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  vectors: VectorConfig = dataclasses.field(default_factory=VectorConfig)
  sid: SidConfig = dataclasses.field(default_factory=SidConfig)
  sids_path: str = ""
  catalog: CatalogConfig = dataclasses.field(default_factory=CatalogConfig)
  input: PipelineConfig = dataclasses.field(default_factory=PipelineConfig)
  model: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
  loss: LossConfig = dataclasses.field(default_factory=LossConfig)
  s2gr: S2grLossConfig = dataclasses.field(default_factory=S2grLossConfig)
  reg4rec: SetLossConfig = dataclasses.field(default_factory=SetLossConfig)
  sasrec: SasRecConfig = dataclasses.field(default_factory=SasRecConfig)
  sasrec_loss: SasRecLossConfig = dataclasses.field(
    default_factory=SasRecLossConfig
  )
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  preference: PreferenceConfig = dataclasses.field(
    default_factory=PreferenceConfig
  )
  search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
  baselines: bool = True

  def __post_init__(self):
    unknown = [name for name in self.systems if name not in SYSTEMS]
    if unknown or not self.systems:
      raise UserError(
        f"config.systems: {unknown or 'empty'}; choose among"
        f" {', '.join(SYSTEMS)}."
      )
    if self.input.rows == "packed" and not self.model.causal_history:
      raise UserError(
        "config.input.rows='packed' trains all positions at once, which needs"
        " config.model.causal_history=True; or set input.rows='one_target'."
      )
    self._check_sequence()
    for leaf in ("corp", "any_order"):
      if getattr(self.search, leaf) and "reg4rec" not in self.systems:
        raise UserError(
          f"config.search.{leaf} is of the search of reg4rec, which"
          " config.systems does not name."
        )
    if self.search.any_order and self.reg4rec.fixed_order:
      raise UserError(
        "config.search.any_order tries orders that a network trained with"
        " config.reg4rec.fixed_order never saw: set one of them to False."
      )
    if self.search.k < max(metrics.CUTOFFS):
      raise UserError(
        f"config.search.k is {self.search.k}; expected at least"
        f" {max(metrics.CUTOFFS)}, for recall@{max(metrics.CUTOFFS)}."
      )
    if self.sids_path and self.catalog.collisions == "reassign":
      raise UserError(
        "config.catalog.collisions='reassign' needs the quantizer that made the"
        " codes; with config.sids_path choose 'leaf' or 'extra_level'."
      )

  def _check_sequence(self):
    parts, slots = self.mesh.sequence, self.input.packed_slots
    if parts == 1:
      return
    if self.input.rows != "packed":
      raise UserError(
        f"config.mesh.sequence is {parts}, and shares the tokens of packed rows"
        f" out; config.input.rows is {self.input.rows!r}: set it to 'packed',"
        " or mesh.sequence to 1."
      )
    if self.model.fused_attention:
      raise UserError(
        f"config.mesh.sequence is {parts}, and the kernels of"
        " config.model.fused_attention read whole rows: set one to 1, or the"
        " other to False."
      )
    if slots % parts:
      raise UserError(
        f"config.mesh.sequence is {parts}, which does not divide the {slots}"
        " slots of a row: choose a divisor, or set config.input.slots_per_row"
        " to a multiple."
      )

  def beside_data(self, path: str) -> str:
    """Relative paths of further inputs start in the data's folder."""
    folder = pathlib.Path(self.data.path)
    if folder.is_file():
      folder = folder.parent
    return str(folder / path) if path else ""

  def section(self, *names: str) -> dict:
    """The named sections as plain JSON values, for manifests."""
    whole = self.resolved()
    return {name: whole[name] for name in names}

  def resolved(self) -> dict:
    """All sections as plain JSON values: config.json."""
    return config_fields.resolved(dataclasses.asdict(self))


def defaults() -> dict:
  """Every section's defaults, for runs of older releases."""
  return Config().resolved()


def as_config_dict(config: Config) -> ConfigDict:
  """The config as the ConfigDict that flags override."""
  return ConfigDict(dataclasses.asdict(config))


def load_config(config: ConfigDict, workdir: pathlib.Path) -> Config:
  """Validates the config and holds the workdir to it.

  Only what an artefact was made from is held: a section may change until the
  stage that reads it has finished, `search` always (its results are replaced),
  and so may leaves of FREE.

  Raises:
    UserError: a field that does not exist or is ill-typed, a workdir whose
      artefacts another config made (says which fields differ), or one that
      cannot be read or made.
  """
  parsed = config_fields.to_dataclass(Config, config)
  resolved = parsed.resolved()
  with _explain_unusable(workdir):
    if check_workdir(workdir, parsed) != resolved:
      workdir.mkdir(parents=True, exist_ok=True)
      artifacts.write_json(workdir / CONFIG, resolved)
  return parsed


@contextlib.contextmanager
def remove_unused(workdir: pathlib.Path) -> Iterator[None]:
  """Leaves no new workdir behind when what is done inside fails early.

  A config.json that was written inside goes if no stage has added anything to
  it, and with it the folders that were made for it.
  """
  path = workdir / CONFIG
  known = os.path.exists(path)
  made = [f for f in (workdir, *workdir.parents) if not os.path.exists(f)]
  try:
    yield
  except BaseException:
    with contextlib.suppress(OSError):
      if not known and os.listdir(workdir) == [CONFIG]:
        path.unlink()
      for folder in made:
        folder.rmdir()  # Fails where there is anything in it.
    raise


def read_config(workdir: pathlib.Path) -> Config:
  """The config that a run was made with, by an older release perhaps.

  Raises:
    UserError: there is no run.
  """
  path = workdir / CONFIG
  if not path.is_file():
    raise UserError(
      f"there is no {path}: expected the --workdir of a run, such as"
      " launch/run.py makes"
    )
  stored = config_fields.with_defaults(artifacts.read_json(path), defaults())
  return config_fields.to_dataclass(Config, stored, str(path))


@contextlib.contextmanager
def _explain_unusable(workdir: pathlib.Path) -> Iterator[None]:
  """Turns the system's errors about a workdir into a UserError."""
  try:
    yield
  except OSError as error:
    files = [f for f in (workdir, *workdir.parents) if os.path.isfile(f)]
    reason = f"{files[0]} is a file" if files else str(error)
    raise UserError(
      f"--workdir={workdir} cannot be used: {reason}; expected a folder that"
      " can be written to, or a path where one can be made"
    ) from error


def check_workdir(workdir: pathlib.Path, config: Config) -> dict:
  """Holds a config to what artefacts of a workdir were made from.

  Returns:
    The config.json that is there, with the defaults of leaves that came later;
    {} without one.

  Raises:
    UserError: they differ (says where).
  """
  path = workdir / CONFIG
  stored = artifacts.read_json(path) if path.is_file() else {}
  stored = config_fields.with_defaults(stored, defaults())
  held = _held_sections(workdir, stored) if stored else []
  lines = config_fields.diff(
    _held(stored, held), _held(config.resolved(), held), free(config.systems)
  )
  if lines:
    raise UserError(
      f"{workdir} was made by another config:\n  "
      + "\n  ".join(lines)
      + "\nChoose another --workdir, or delete that one to start again."
    )
  return stored


def _held_sections(workdir: pathlib.Path, stored: dict) -> list[str]:
  """Sections that finished artefacts of the workdir depend on."""
  held: list[str] = []
  for folder, sections in MADE_FROM.items():
    if folder == "checkpoints":
      present = bool(seal.read_metrics(workdir / folder))
      sections += SYSTEMS.get(stored["systems"][0], ())
    else:
      present = (workdir / folder).exists()
    held += sections if present else ()
  for path in workdir.glob("systems/*/checkpoints"):
    held += SYSTEMS.get(path.parent.name, ()) if seal.read_metrics(path) else ()
  return held


def _held(resolved: dict, held: list[str]) -> dict:
  kept = {name: resolved[name] for name in held if name in resolved}
  if "systems" in kept:
    # More systems may join; the headline's place is the workdir itself.
    kept["systems"] = kept["systems"][:1]
  return kept
