"""Folders and files are whole or not there; hashes are stable."""

import errno
import hashlib
import os
import resource

import numpy as np
import pytest

from holorec_jax import artifacts
from holorec_jax.errors import UserError


def test_hash_json_ignores_the_order_of_keys():
  assert artifacts.hash_json({"a": 1, "b": [2]}) == artifacts.hash_json(
    {"b": [2], "a": 1}
  )
  # A literal: hashes of one release must be those of the next.
  expected = hashlib.sha256(b'{"a":1}').hexdigest()
  assert artifacts.hash_json({"a": 1}) == expected


def test_hash_files(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "a.txt").write_bytes(b"abc")
  expected = {"sub/a.txt": hashlib.sha256(b"abc").hexdigest()}
  assert artifacts.hash_files(tmp_path) == expected


def write_old(path, text, second):
  """A file that was last changed so many seconds after 2020 began."""
  path.write_text(text)
  os.utime(path, (0, 1_577_836_800 + second))


def test_hash_outside_reads_what_has_changed(tmp_path, monkeypatch):
  read = []
  hash_file = artifacts.hash_file
  monkeypatch.setattr(
    artifacts, "hash_file", lambda p: read.append(p.name) or hash_file(p)
  )
  names = ("a", "b", "gone")
  paths = {name: tmp_path / f"{name}.txt" for name in names}

  def hashes():
    read.clear()
    return artifacts.hash_outside(paths, tmp_path / "run" / "hashes.json")

  write_old(paths["a"], "abc", 0)
  write_old(paths["b"], "def", 0)
  expected = {
    "a": hashlib.sha256(b"abc").hexdigest(),
    "b": hashlib.sha256(b"def").hexdigest(),
  }
  assert hashes() == expected
  assert read == ["a.txt", "b.txt"]
  assert hashes() == expected
  assert not read
  write_old(paths["b"], "dex", 1)
  assert hashes() == expected | {"b": hashlib.sha256(b"dex").hexdigest()}
  assert read == ["b.txt"]


def test_hash_outside_does_not_trust_a_file_just_written(tmp_path):
  path = tmp_path / "a.txt"
  for text in (b"abc", b"abd"):
    path.write_bytes(text)  # perhaps within one tick of the clock
    found = artifacts.hash_outside({"a": path}, tmp_path / "hashes.json")
    assert found == {"a": hashlib.sha256(text).hexdigest()}


def test_one_process_of_a_run_keeps_hashes(tmp_path):
  write_old(tmp_path / "a", "abc", 0)
  paths, cache = {"a": tmp_path / "a"}, tmp_path / "hashes.json"
  found = artifacts.hash_outside(paths, cache, keeps=False)
  assert not cache.exists()
  assert artifacts.hash_outside(paths, cache) == found
  assert cache.exists()


def test_atomic_folder_appears_whole(tmp_path):
  target = tmp_path / "deep" / "dataset"
  with artifacts.atomic_folder(target) as folder:
    (folder / "a.txt").write_text("a")
    assert not target.exists()
  assert [p.name for p in target.parent.iterdir()] == ["dataset"]
  assert (target / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_folder_leaves_nothing_after_a_failure(tmp_path, error):
  with (
    pytest.raises(error),
    artifacts.atomic_folder(tmp_path / "dataset") as folder,
  ):
    (folder / "a.txt").write_text("a")
    raise error
  assert not list(tmp_path.iterdir())


def test_atomic_folder_clears_what_a_killed_process_left(tmp_path):
  killed = artifacts.atomic_folder(tmp_path / "dataset")
  (killed.__enter__() / "old.txt").write_text("old")
  with artifacts.atomic_folder(tmp_path / "dataset") as folder:
    assert not list(folder.iterdir())
  assert [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_atomic_folder_does_not_overwrite(tmp_path):
  with (
    pytest.raises(UserError, match="already there"),
    artifacts.atomic_folder(tmp_path),
  ):
    pass


def test_full_disk_is_explained_and_leaves_nothing(tmp_path):
  with (
    pytest.raises(UserError, match=r"disk is full.*dataset.*free some"),
    artifacts.atomic_folder(tmp_path / "dataset"),
  ):
    raise OSError(errno.ENOSPC, "No space left on device")
  assert not list(tmp_path.iterdir())


def test_full_disk_under_a_real_limit(tmp_path):
  """The system's own error, through numpy's writer that drops its number."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    with (
      pytest.raises(UserError, match="disk is full"),
      artifacts.atomic_folder(tmp_path / "vectors") as folder,
    ):
      np.save(folder / "vectors.npy", np.zeros(10_000))
    with pytest.raises(UserError, match="disk is full"):
      artifacts.write_json(tmp_path / "a.json", "x" * 10_000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path):
  path = tmp_path / "results.json"
  artifacts.write_json(path, {"a": [1, None], "title": "é"})
  with pytest.raises(TypeError):
    artifacts.write_json(path, {"a": object()})
  assert artifacts.read_json(path) == {"a": [1, None], "title": "é"}
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_read_json_names_the_file(tmp_path):
  for content in (b'{"a": ', b'{"a": "\xe9"}', b""):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
      artifacts.read_json(tmp_path / "a.json")
