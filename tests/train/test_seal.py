"""Whatever happened to a seal, its checkpoint is passed over."""

import json

import pytest

from holorec_jax.errors import UserError
from holorec_jax.train import seal


@pytest.fixture
def folder(tmp_path):
  """Sealed steps 1 and 2, the first one with the better metric."""
  for step, metric in ((1, 0.5), (2, 0.25)):
    state = tmp_path / str(step) / seal.STATE
    state.mkdir(parents=True)
    (state / "weights").write_bytes(bytes(step))
    host = {"step": step, "metric": metric, "data": {}, "loop": {"at": step}}
    seal.write_seal(state.parent, host)
  return tmp_path


def test_whole(folder):
  assert seal.first_whole(folder, [2, 1]) == 2
  assert seal.read_metrics(folder) == {1: 0.5, 2: 0.25}
  assert seal.rank_by_metric(seal.read_metrics(folder)) == [1, 2]
  assert seal.read_loop(folder) == {"at": 2}


WHOLE = {"step": 2, "metric": 0.25, "data": {}, "loop": {}, "files": {}}


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"\xff\xfe\x00",
    b'{"step": 2, "metric": 0.\xb25}',
    b"[]",
    b"null",
    b"7",
    b'"files"',
    b"{}",
    json.dumps(WHOLE | {"files": ["weights"]}).encode(),
    json.dumps(WHOLE | {"metric": "0.25"}).encode(),
    json.dumps({k: v for k, v in WHOLE.items() if k != "loop"}).encode(),
  ],
)
def test_a_damaged_seal_falls_back(folder, content):
  (folder / "2" / seal.SEAL).write_bytes(content)
  assert seal.find_fault(folder / "2") == "seal.json cannot be read"
  assert seal.first_whole(folder, [2, 1]) == 1
  assert seal.read_metrics(folder) == {1: 0.5}
  assert seal.read_loop(folder) == {"at": 1}


def test_changed_missing_and_further_files(folder):
  state = folder / "2" / seal.STATE
  (state / "more").write_bytes(b"")
  assert seal.find_fault(folder / "2") == "state/more has changed"
  (state / "more").unlink()
  (state / "weights").write_bytes(b"\0\1")
  assert seal.find_fault(folder / "2") == "state/weights has changed"
  (state / "weights").unlink()
  assert seal.find_fault(folder / "2") == "state/weights is missing"


def test_the_best_is_whole_or_it_is_said(folder, caplog):
  assert seal.best_whole(folder) == 1
  assert not caplog.records
  (folder / "1" / seal.STATE / "weights").write_bytes(b"\1")
  assert seal.best_whole(folder) == 2
  taken = "step 2 (metric 0.2500) is taken instead of the best, step 1 (0.5000)"
  assert taken in caplog.text


def test_a_best_that_cannot_be_read_is_said_too(folder, caplog):
  (folder / "1" / seal.SEAL).write_bytes(b"")
  assert seal.best_whole(folder) == 2
  assert f"{folder}/1 has no readable seal.json" in caplog.text


def test_training_goes_on_from_the_newest_whole(folder):
  (folder / "2" / seal.STATE / "weights").write_bytes(b"\2")
  assert seal.read_loop(folder) == {"at": 1}
  (folder / "1" / seal.STATE / "weights").unlink()
  for read in (seal.read_loop, seal.best_whole):
    with pytest.raises(UserError, match=r"none of the checkpoints .* is whole"):
      read(folder)


def test_none_is_whole(folder):
  assert seal.first_whole(folder, []) is None
  for step in (1, 2):
    (folder / str(step) / seal.SEAL).unlink()
  with pytest.raises(UserError, match=r"none of the checkpoints \[2, 1\]"):
    seal.first_whole(folder, [2, 1])
  assert seal.read_loop(folder) is None
  assert seal.best_whole(folder) is None
