"""Recommendations for all users: whole, resumable, and of one run only."""

import errno
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_run import TINY

from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.errors import UserError
from holorec_jax.experiment import bulk, recommendation

USERS_PER_SHARD = 42
REQUEST = bulk.Request(k=10, exclude_seen=True, users_per_shard=USERS_PER_SHARD)


@pytest.fixture(scope="module")
def shards(finished, tmp_path_factory):
  """The folder of an undisturbed run."""
  out = tmp_path_factory.mktemp("bulk") / "new" / "out"
  bulk.recommend_all(*finished, out, REQUEST)
  return out


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def forbid_search(monkeypatch):
  def search(*args):
    raise AssertionError("this was to be refused, or done already")

  monkeypatch.setattr(bulk, "_fill", search)


def test_shards_hold_what_the_recommender_answers(finished, shards):
  run = recommendation.open_run(finished[1])
  users, item_ids = run.dataset.num_users, run.dataset.item_ids
  count = -(-users // USERS_PER_SHARD)
  files = sorted(shards.glob("*.parquet"))
  assert [file.name for file in files] == [
    f"recommendations-{i:05d}-of-{count:05d}.parquet" for i in range(count)
  ]
  assert count > 2
  tables = [pq.read_table(file) for file in files]
  assert all(table.schema.equals(bulk.COLUMNS) for table in tables)
  rows = [row for table in tables for row in table.to_pylist()]
  found = run.recommender.recommend(
    run.histories(np.arange(users)), Filters(exclude_seen=True), REQUEST.k
  )
  assert [row["user"] for row in rows] == run.dataset.user_ids.tolist()
  assert [row["from_prior"] for row in rows] == found.from_prior_U.tolist()
  for row, items_K, scores_K in zip(rows, found.items_UK, found.scores_UK):
    valid_K = items_K >= 0
    assert row["items"] == item_ids[items_K[valid_K]].tolist()
    np.testing.assert_allclose(row["scores"], scores_K[valid_K], atol=1e-5)


def test_a_short_list_holds_only_items(finished, tmp_path):
  run = recommendation.open_run(finished[1])
  first, second, third = run.dataset.item_ids[:3].tolist()
  bulk.recommend_all(
    *finished,
    tmp_path,
    bulk.Request(k=5, allow=(first, second, third), deny=(second,)),
  )
  (file,) = tmp_path.glob("*.parquet")
  rows = pq.read_table(file).to_pylist()
  assert len(rows) == run.dataset.num_users
  for row in rows:
    assert sorted(row["items"]) == sorted([first, third])
    assert len(row["scores"]) == 2
    assert row["scores"] == sorted(row["scores"], reverse=True)


def test_a_killed_run_ends_as_an_undisturbed_one(
  finished, shards, tmp_path, monkeypatch
):
  write, written = bulk._write, []

  def write_one(table, path):
    if written:
      raise InterruptedError
    written.append(path)
    write(table, path)

  with monkeypatch.context() as patch:
    patch.setattr(bulk, "_write", write_one)
    with pytest.raises(InterruptedError):
      bulk.recommend_all(*finished, tmp_path, REQUEST)
  first = written[0]
  assert sorted(contents(tmp_path)) == ["manifest.json", first.name]
  # As a kill leaves them: no handler has run.
  (tmp_path / f".{first.name}.partial").write_bytes(b"PAR1")
  (tmp_path / ".manifest.json.partial").write_text("{")
  kept = first.stat().st_mtime_ns
  bulk.recommend_all(*finished, tmp_path, REQUEST)
  assert contents(tmp_path) == contents(shards)
  assert first.stat().st_mtime_ns == kept


def test_a_damaged_shard_is_made_again(finished, shards, tmp_path, caplog):
  out = tmp_path / "out"
  shutil.copytree(shards, out)
  file = sorted(out.glob("*.parquet"))[1]
  file.write_bytes(file.read_bytes()[:100])
  bulk.recommend_all(*finished, out, REQUEST)
  assert "damaged" in caplog.text
  assert contents(out) == contents(shards)


def test_a_finished_folder_is_left_alone(finished, shards, monkeypatch, caplog):
  caplog.set_level("INFO")
  forbid_search(monkeypatch)
  before = contents(shards)
  bulk.recommend_all(*finished, shards, REQUEST)
  assert "is finished" in caplog.text
  assert contents(shards) == before


def test_another_origin_is_refused_by_field(
  finished, shards, tmp_path, monkeypatch
):
  forbid_search(monkeypatch)
  before = contents(shards)
  other = bulk.Request("non_thinking", k=3, users_per_shard=USERS_PER_SHARD)
  with pytest.raises(UserError, match="made from something else") as refused:
    bulk.recommend_all(*finished, shards, other)
  for line in (
    "request.exclude_seen: True -> False",
    "request.k: 10 -> 3",
    "run.system: 'thinking' -> 'non_thinking'",
    "run.checkpoint.content: ",
  ):
    assert line in str(refused.value)
  assert contents(shards) == before
  out = tmp_path / "out"
  shutil.copytree(shards, out)
  stored = json.loads((out / "manifest.json").read_text())
  stored["made_from"]["run"]["dataset"] = "another"
  (out / "manifest.json").write_text(json.dumps(stored))
  with pytest.raises(UserError, match=r"run\.dataset: 'another' -> "):
    bulk.recommend_all(*finished, out, REQUEST)


def test_places_that_are_no_folder_for_shards(finished, tmp_path):
  file = tmp_path / "file"
  file.write_text("mine")
  with pytest.raises(UserError, match=r"--out=.*file is a file"):
    bulk.recommend_all(*finished, file, REQUEST)
  with pytest.raises(UserError, match="cannot be used"):
    bulk.recommend_all(*finished, file / "out", REQUEST)
  with pytest.raises(UserError, match=r"holds other files \(file\)"):
    bulk.recommend_all(*finished, tmp_path, REQUEST)
  with pytest.raises(UserError, match="made from something else"):
    bulk.recommend_all(*finished, finished[1] / "dataset", REQUEST)
  assert contents(tmp_path) == {"file": b"mine"}


def test_a_full_disk_leaves_whole_shards(finished, tmp_path, monkeypatch):
  def write_some(table, file):
    file.write(b"PAR1")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(pq, "write_table", write_some)
  with pytest.raises(UserError, match="the disk is full"):
    bulk.recommend_all(*finished, tmp_path, REQUEST)
  assert list(contents(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize(
  ("request_", "words"),
  [
    ({"k": 0}, r"request\.k is 0"),
    ({"k": 1025}, r"request\.k is 1025"),
    ({"users_per_shard": 0}, r"request\.users_per_shard is 0"),
    ({"k": 1000, "users_per_shard": 10**6}, "lower users_per_shard"),
  ],
)
def test_requests_out_of_range(request_, words):
  with pytest.raises(UserError, match=words):
    bulk.Request(**request_)


def test_unknown_items_leave_nothing_behind(finished, tmp_path):
  with pytest.raises(UserError, match="--deny: nothing not in the data set"):
    bulk.recommend_all(
      *finished, tmp_path / "out", bulk.Request(deny=("nothing",))
    )
  assert not (tmp_path / "out").exists()


def test_an_opened_run_answers(finished):
  config, workdir = finished
  run = recommendation.open_run(str(workdir), "non_thinking")
  assert run.config == config == TINY
  found = run.recommender.recommend(
    make_histories([[3, 17], []]), Filters(exclude_seen=True), k=10
  )
  assert found.valid_UK.all()
  assert not {3, 17} & set(found.items_UK[0].tolist())
  assert found.from_prior_U.tolist() == [False, True]


def test_runs_that_cannot_be_opened(finished, tmp_path):
  with pytest.raises(UserError, match=r"there is no .*config\.json"):
    recommendation.open_run(tmp_path)
  with pytest.raises(UserError, match="'plain': this run has thinking, non_"):
    recommendation.open_run(finished[1], "plain")
  with pytest.raises(UserError, match=r"no .*results\.json: run launch/align"):
    recommendation.open_run(finished[1], "aligned")
  shutil.copy(pathlib.Path(finished[1], "config.json"), tmp_path)
  with pytest.raises(UserError, match="prepare_data"):
    recommendation.open_run(tmp_path)
