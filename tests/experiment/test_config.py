"""What a run is let into: configs that fit together, and workdirs."""

import pytest

from holorec_jax.data.pipeline import PipelineConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import (
  Config,
  as_config_dict,
  load_config,
  remove_unused,
)
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.sharding import MeshConfig

CONFIG = as_config_dict(Config())


@pytest.mark.parametrize(
  "rows, message",
  [
    (dict(rows="one_target"), "config.input.rows is 'one_target'"),
    (dict(max_history=50), "does not divide the 50 slots of a row"),
  ],
)
def test_rows_that_cannot_be_split_by_token(rows, message):
  mesh = MeshConfig(sequence=4)
  with pytest.raises(UserError, match=message):
    Config(input=PipelineConfig(**rows), mesh=mesh)
  rows = PipelineConfig(max_history=20)
  assert Config(input=rows, mesh=mesh)
  kernels = GeneratorConfig(
    backbone="qwen3", encoder_layers=0, gated_mlp=True, fused_attention=True
  )
  with pytest.raises(UserError, match="fused_attention read whole rows"):
    Config(input=rows, mesh=mesh, model=kernels)


def test_a_file_is_no_workdir(tmp_path):
  file = tmp_path / "run"
  file.write_text("notes")
  for workdir in (file, file / "inside"):
    with (
      pytest.raises(UserError, match=f"--workdir={workdir} .*{file} is a file"),
      remove_unused(workdir),
    ):
      load_config(CONFIG, workdir)
  assert file.read_text() == "notes"


def test_a_failed_start_leaves_nothing(tmp_path):
  for name in ("run", "new/folder/run"):
    with pytest.raises(UserError, match="bad"), remove_unused(tmp_path / name):
      load_config(CONFIG, tmp_path / name)
      raise UserError("bad data")
  assert not list(tmp_path.iterdir())
  # The folder itself was there before.
  with pytest.raises(UserError, match="bad"), remove_unused(tmp_path):
    load_config(CONFIG, tmp_path)
    raise UserError("bad data")
  assert not list(tmp_path.iterdir())


def test_what_a_stage_has_written_stays(tmp_path):
  workdir = tmp_path / "run"
  with pytest.raises(KeyboardInterrupt), remove_unused(workdir):
    load_config(CONFIG, workdir)
    (workdir / "dataset").mkdir()
    raise KeyboardInterrupt
  assert {p.name for p in workdir.iterdir()} == {"config.json", "dataset"}
  (workdir / "dataset").rmdir()
  with pytest.raises(UserError, match="bad"), remove_unused(workdir):
    load_config(CONFIG, workdir)
    raise UserError("bad data")
  assert [p.name for p in workdir.iterdir()] == ["config.json"]
