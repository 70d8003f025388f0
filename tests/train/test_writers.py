"""Scalars are read back from both files, and survive a restart."""

import json
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from holorec_jax.errors import UserError
from holorec_jax.train.writers import MetricWriter, read_metrics


def scalars(folder, tag):
  events = EventAccumulator(str(folder)).Reload().Scalars(tag)
  return [(e.step, round(e.value, 6)) for e in events]


def test_both_files_hold_what_was_written(tmp_path):
  with MetricWriter(tmp_path / "run") as writer:
    writer.write(1, {"train/loss": 2, "train/rate": np.float32(0.5)})
    writer.write(2, {"train/loss": jnp.asarray(1.5)})
    # On disk at once: a kill loses nothing that was written.
    assert len(read_metrics(tmp_path / "run")) == 2
  assert read_metrics(tmp_path / "run") == [
    {"step": 1, "train/loss": 2, "train/rate": 0.5},
    {"step": 2, "train/loss": 1.5},
  ]
  assert scalars(tmp_path / "run", "train/loss") == [(1, 2.0), (2, 1.5)]


def test_a_restart_drops_the_steps_that_are_run_again(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20, 30):
      writer.write(step, {"loss": step})
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 40, "lo')  # killed here
  with MetricWriter(tmp_path, resumed_step=20) as writer:
    writer.write(30, {"loss": 0.5})
  assert [(m["step"], m["loss"]) for m in read_metrics(tmp_path)] == [
    (10, 10),
    (20, 20),
    (30, 0.5),
  ]
  assert scalars(tmp_path, "loss") == [(10, 10.0), (20, 20.0), (30, 0.5)]


def test_restarts_within_a_second_keep_their_order_by_name(tmp_path):
  for _ in range(3):
    MetricWriter(tmp_path).close()
  names = [path.name for path in tmp_path.glob("events.out.tfevents.*")]
  assert len({name.split(".")[3] for name in names}) == len(names) == 3


def test_a_fresh_start_forgets_everything(tmp_path):
  for value in (1, 2):
    with MetricWriter(tmp_path) as writer:
      writer.write(1, {"loss": value})
  assert read_metrics(tmp_path) == [{"step": 1, "loss": 2}]
  assert scalars(tmp_path, "loss") == [(1, 2.0)]


def test_every_line_is_strict_json(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(1, {"loss": float("nan"), "norm": float("inf")})
  text = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(text, parse_constant=pytest.fail) == {
    "step": 1,
    "loss": None,
    "norm": None,
  }


def test_only_scalars(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for value in ("high", None, [1.0]):
      with pytest.raises(TypeError, match="a metric is a scalar"):
        writer.write(1, {"loss": value})
  assert read_metrics(tmp_path) == []


def test_full_disk_is_explained_and_keeps_whole_lines(tmp_path):
  """The system's own error: no file may grow beyond the limit."""
  old = "".join(f'{{"step": {n}, "loss": 0.5}}\n' for n in range(100))
  (tmp_path / "metrics.jsonl").write_text(old)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) - 10, limits[1]))
    with pytest.raises(UserError, match=r"disk is full.*metrics\.jsonl"):
      MetricWriter(tmp_path, resumed_step=100)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) + 10, limits[1]))
    with (
      pytest.raises(UserError, match=r"disk is full.*metrics\.jsonl"),
      MetricWriter(tmp_path, resumed_step=100) as writer,
    ):
      writer.write(101, {"loss": 0.5})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert (tmp_path / "metrics.jsonl").read_text() == old
