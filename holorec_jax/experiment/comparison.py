"""Several configs and seeds under equal conditions: what has to run, and where.

The folder of a comparison:

  NAME/seed_S/      run of one config and seed, as launch/run.py makes it
  artefacts/X-HASH/ dataset/, vectors/ and sids/ of all runs whose config agrees
                    on the sections that these are made from; runs hold links
  *.log             beside each of these folders: what its stages printed

Nothing here starts a process: a `Job` knows its command and whether it is done.
"""

import collections
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from holorec_jax import artifacts, config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment.alignment import FOLDER as ALIGNED
from holorec_jax.experiment.config import (
  CONFIG,
  MADE_FROM,
  Config,
  check_workdir,
  defaults,
)
from holorec_jax.experiment.evaluation import RANKS
from holorec_jax.experiment.systems import generates_codes
from holorec_jax.experiment.training import system_folder
from holorec_jax.train.seal import SEAL, identify

RESULTS = "results.json"
ARTEFACTS = "artefacts"
# What a run is made of: what may be shared, and what is trained on it.
TRAINED = "checkpoints"
SHARED = tuple(name for name in MADE_FROM if name != TRAINED)
# fit_sids.py makes the vectors, too.
ARTEFACT_SCRIPTS = {"prepare_data.py": "dataset", "fit_sids.py": "sids"}


@dataclasses.dataclass(frozen=True)
class Job:
  """One call of a launch script, which makes a part of its folder.

  Attributes:
    script: in launch/.
    spec: FILE.py or FILE.py:VARIANT.
    overrides: of config leaves, "train.epochs=3".
    config: what spec and overrides amount to.
    folder: its --workdir.
    makes: an artefact of SHARED, or RESULTS.
    needs: the job that must be done before.
    align: whether the run ends with preference alignment.
  """

  script: str
  spec: str
  overrides: tuple[str, ...]
  config: Config
  folder: pathlib.Path
  makes: str
  needs: "Job | None" = None
  align: bool = False

  @property
  def label(self) -> str:
    """What people see: "beauty-tiger/seed_0", "artefacts/sids-5f0c..."."""
    return f"{self.folder.parent.name}/{self.folder.name}"

  @property
  def log(self) -> pathlib.Path:
    """Where its output goes."""
    return self.folder.with_name(f"{self.folder.name}.log")

  def arguments(self) -> list[str]:
    """Of the script."""
    return [
      f"--config={self.spec}",
      *(f"--config.{override}" for override in self.overrides),
      *(["--align"] if self.align else []),
      f"--workdir={self.folder}",
    ]

  def done(self) -> bool:
    """Whether there is nothing left to do."""
    if self.makes != RESULTS:
      return (self.folder / self.makes).exists()
    files = [self.folder / name for name in (CONFIG, RANKS, RESULTS)]
    if not all(path.is_file() for path in files):
      return False
    stored, results = (artifacts.read_json(path) for path in files[::2])
    resolved, made_from = self.config.resolved(), results["made_from"]
    # config.json is renewed before the results that a change asks for.
    return (
      config_fields.with_defaults(stored, defaults()) == resolved
      and made_from["search"] == resolved["search"]
      and made_from["baselines"] == self.config.baselines
      and {results["headline"], *results["modes"]} == set(self.config.systems)
      and self._still_there(made_from["checkpoints"])
      and (not self.align or self._aligned(resolved))
    )

  def _still_there(self, checkpoints: Mapping[str, Any]) -> bool:
    """Whether what was measured has not been trained again."""
    for name, known in checkpoints.items():
      folder = system_folder(self.config, self.folder, name) / TRAINED
      step = known if isinstance(known, int) else known["step"]
      if not (folder / str(step) / SEAL).is_file():
        return False
      # Until November 2026 the step alone was written down.
      if known not in (step, identify(folder, step)):
        return False
    return True

  def _aligned(self, resolved: dict) -> bool:
    folder = self.folder / ALIGNED
    if not all((folder / name).is_file() for name in (RESULTS, RANKS)):
      return False
    made_from = artifacts.read_json(folder / RESULTS)["made_from"]
    return all(made_from[x] == resolved[x] for x in ("preference", "search"))


@dataclasses.dataclass(frozen=True)
class Plan:
  """All jobs of a comparison, in an order in which they can be done.

  Attributes:
    workdir: its folder.
    jobs: every config with the first seed, then with the next; what a run needs
      stands before it.
    runs: name of each config -> its runs, by seed.
  """

  workdir: pathlib.Path
  jobs: Sequence[Job]
  runs: Mapping[str, Sequence[Job]]

  def to_do(self) -> list[Job]:
    """Unfinished runs and what they lack."""
    left: set[pathlib.Path] = set()
    for job in reversed(self.jobs):
      wanted = job.makes == RESULTS or job.folder in left
      if wanted and not job.done():
        left.add(job.folder)
        left |= {job.needs.folder} if job.needs else set()
      else:
        left.discard(job.folder)
    return [job for job in self.jobs if job.folder in left]


def make_plan(
  specs: Sequence[str],
  seeds: int,
  overrides: Sequence[str],
  workdir: pathlib.Path,
  refit: bool = False,
  align: bool = False,
) -> Plan:
  """Loads all configs and lays out their runs; writes nothing.

  Args:
    specs: FILE.py or FILE.py:VARIANT; the first is what others are compared
      with.
    seeds: runs of each, of the seeds 0, 1, ..
    overrides: of leaves of all configs, "train.epochs=3".
    workdir: the folder of the comparison.
    refit: whether the quantizer's seed follows the run's.
    align: whether runs end with preference alignment of the headline system,
      where it generates codes.

  Raises:
    UserError: a file or leaf that does not exist or is ill-valued, two specs
      of one name, configs of unlike data, an override of a seed.
  """
  if not specs:
    raise UserError("--configs is empty: give at least one FILE.py")
  names = _name_all(specs)
  plain = {spec: load_spec(spec, overrides) for spec in specs}
  _check_data(plain)
  jobs: dict[pathlib.Path, Job] = {}
  runs: dict[str, list[Job]] = {name: [] for name in names.values()}
  for seed in range(seeds):
    for spec, config in plain.items():
      seeded = MADE_FROM[TRAINED]
      seeded += MADE_FROM["sids"] if refit else ()
      seeded += ("preference",) if align else ()
      texts = *overrides, *_seed_overrides(config, overrides, seed, seeded)
      if seed or spec != specs[0]:
        # They are the same for all; the first run has them.
        texts = *texts, "baselines=False"
      common = spec, texts, load_spec(spec, texts)
      needs = None
      for script, makes in ARTEFACT_SCRIPTS.items():
        folder = workdir / ARTEFACTS / _hash(common[-1], makes)
        job = Job(script, *common, folder, makes, needs)
        needs = jobs.setdefault(folder, job)
      folder = workdir / names[spec] / f"seed_{seed}"
      aligned = align and generates_codes(config.systems[0])
      jobs[folder] = Job("run.py", *common, folder, RESULTS, needs, aligned)
      runs[names[spec]].append(jobs[folder])
  return Plan(workdir, tuple(jobs.values()), runs)


def _name_all(specs: Sequence[str]) -> dict[str, str]:
  """Spec -> the name of its row and folder."""
  names = {spec: _name(spec) for spec in specs}
  for name, count in collections.Counter(map(_name, specs)).items():
    if count > 1 or name == ARTEFACTS:
      raise UserError(
        f"--configs: {count} would be called {name!r}; each needs a file name"
        f" and variant of its own, other than {ARTEFACTS!r}"
      )
  return names


def _name(spec: str) -> str:
  file, _, variant = spec.partition(":")
  parts = [pathlib.Path(file).stem, *filter(None, [variant])]
  return re.sub(r"[^\w.,=+-]+", "_", "-".join(parts))


def load_spec(spec: str, overrides: Sequence[str]) -> Config:
  """The config as a launch script would take it.

  Raises:
    UserError: there is no such file or leaf, or its value is not valid.
  """
  for override in overrides:
    if not re.match(r"[A-Za-z_][\w.]*=", override):
      raise UserError(
        f"--overrides: {override!r} should look like train.epochs=3"
      )
  leaves = [override.partition("=")[0] for override in overrides]
  config_fields.check_overrides(spec, leaves, "config")
  argv = ["", f"--config={spec}", *(f"--config.{text}" for text in overrides)]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  try:
    values(argv)
    return config_fields.to_dataclass(Config, values["config"].value)
  except (UserError, flags.IllegalFlagValueError) as error:
    raise UserError(f"{spec}: {error}") from None


def _check_data(configs: Mapping[str, Config]) -> None:
  """Raises UserError unless all configs read the same data."""
  first, *others = configs
  for spec in others:
    lines = config_fields.diff(
      configs[first].section(*MADE_FROM["dataset"]),
      configs[spec].section(*MADE_FROM["dataset"]),
    )
    if lines:
      raise UserError(
        f"{first} and {spec} are of different data, so that their users cannot"
        " be compared:\n  "
        + "\n  ".join(lines)
        + "\n--overrides=LEAF=VALUE,.. sets a leaf for all of them."
      )


def _seed_overrides(
  config: Config, overrides: Sequence[str], seed: int, sections: Sequence[str]
) -> Iterator[str]:
  """Every leaf called seed of the sections."""
  given = {override.partition("=")[0] for override in overrides}
  for leaf in config_fields.flatten(config.section(*sections)):
    if leaf.rpartition(".")[2] == "seed":
      if leaf in given:
        raise UserError(
          f"--overrides sets {leaf}, which follows the run's seed; --seeds=N"
          " makes runs of the seeds 0 to N - 1"
        )
      yield f"{leaf}={seed}"


def _sections(artefact: str) -> list[str]:
  """All that an artefact depends on: its own sections and those before it."""
  order = SHARED[: SHARED.index(artefact) + 1]
  return [section for name in order for section in MADE_FROM[name]]


def _hash(config: Config, artefact: str) -> str:
  sections = config.section(*_sections(artefact))
  return f"{artefact}-{artifacts.hash_json(sections)[:10]}"


def check_folders(plan: Plan) -> None:
  """Raises UserError if one of the runs' folders holds another config's run."""
  for job in plan.jobs:
    if job.makes == RESULTS and job.folder.exists():
      if job.align:
        _check_aligned(job)
      check_workdir(job.folder, job.config)


def _check_aligned(job: Job) -> None:
  """Raises UserError if the run is, or is being, aligned in another way."""
  folder = job.folder / ALIGNED
  path = folder / TRAINED / CONFIG
  if not path.is_file():
    return
  stored = {"preference": artifacts.read_json(path)["preference"]}
  added = {"preference": defaults()["preference"]}
  lines = config_fields.diff(
    config_fields.with_defaults(stored, added), job.config.section("preference")
  )
  if lines:
    raise UserError(
      f"{folder} is aligned with other settings:\n  "
      + "\n  ".join(lines)
      + "\nDelete that folder, or choose another --workdir."
    )


def share(job: Job, workdir: pathlib.Path) -> None:
  """Links what the job reads and another one of the comparison has made."""
  job.folder.mkdir(parents=True, exist_ok=True)
  reads = SHARED
  if job.makes in SHARED:
    reads = SHARED[: SHARED.index(job.makes)]
  for name in reversed(reads):
    link = job.folder / name
    found = _find(name, job.config, workdir)
    if found is None or link.exists():
      continue
    link.unlink(missing_ok=True)  # of what has been deleted
    link.symlink_to(os.path.relpath(found, job.folder.resolve()))
    # Hashes of files outside, and how long the stages took.
    for known in ("hashes.json", "seconds.json"):
      source, copy = found.parent / known, job.folder / known
      if source.is_file() and not copy.exists():
        shutil.copy2(source, copy)


def _find(
  name: str, config: Config, workdir: pathlib.Path
) -> pathlib.Path | None:
  """An artefact of the comparison that is made from the config's sections."""
  wanted = config.section(*_sections(name))
  for path in sorted((workdir / ARTEFACTS).glob(f"*/{name}")):
    stored = artifacts.read_json(path.parent / CONFIG)
    held = {section: stored.get(section) for section in wanted}
    if held == wanted and path.exists():
      return path.resolve()
  return None
