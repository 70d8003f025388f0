"""A bundle is whole and unchanged, or it is refused by name."""

import json
import shutil

import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.export import bundle, coding, golden, runtime, sealed
from holorec_jax.vectors import cold_items


@pytest.fixture
def copy(exported, tmp_path):
  return shutil.copytree(exported[1], tmp_path / "copy")


def refuse(folder, **how) -> runtime.BundleError:
  with pytest.raises(runtime.BundleError) as caught:
    runtime.load(folder, replay=False, **how)
  return caught.value


def test_the_manifest_lists_every_other_file(exported):
  _, folder, manifest = exported
  assert runtime.load(folder, replay=False).manifest == manifest
  hashes = artifacts.hash_files(folder)
  del hashes[sealed.MANIFEST]
  files = manifest["files"]
  assert hashes == {name: entry["sha256"] for name, entry in files.items()}
  assert set(hashes) == {
    "programs/explain.bin.gz",
    "programs/liveness.bin.gz",
    "programs/search_B1.bin.gz",
    "programs/search_B4.bin.gz",
    "programs/search_wide.bin.gz",
    "weights.safetensors",
    "catalogue.safetensors",
    "items.jsonl.gz",
    "encoder.safetensors",
    "encoder.json.gz",
    "golden.json",
    "runtime.py",
    "rows.py",
    "sealed.py",
    "changes.py",
    "coding.py",
    "explaining.py",
    "cold_items.py",
  }
  assert manifest["metrics"] == {"recall@10": 0.5}
  assert manifest["shapes"]["beam"] == tiny.BEAM
  assert manifest["quantizer"] is None


def test_any_flipped_byte_is_named(exported, copy):
  """At the start, in the middle and at the end of every file."""
  for name in [*exported[2]["files"], sealed.MANIFEST]:
    path = copy / name
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
      spoilt = bytearray(whole)
      # Of a manifest's last byte, a line break, this makes another space.
      spoilt[place] ^= ord("\n") ^ ord("\r")
      path.write_bytes(spoilt)
      error = refuse(copy)
      assert error.where == str(path.resolve()) and error.mend
      assert str(path.resolve()) in str(error)
    path.write_bytes(whole)
  runtime.load(copy, replay=False)


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_and_missing_files_are_named(exported, copy, verify):
  for name in [*exported[2]["files"], sealed.MANIFEST]:
    path = copy / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert refuse(copy, verify=verify).where == str(path.resolve())
    path.unlink()
    error = refuse(copy, verify=verify)
    assert error.where == str(path.resolve()) and "missing" in error.what
    path.write_bytes(whole)
  assert "missing" in refuse(copy / "nowhere").what


def rewrite(folder, **changes) -> None:
  """Seals other content, as someone would who knows how."""
  manifest = artifacts.read_json(folder / sealed.MANIFEST) | changes
  manifest["content"] = sealed.seal(manifest)
  (folder / sealed.MANIFEST).write_text(sealed.manifest_text(manifest))


def test_other_versions_are_refused(copy):
  rewrite(copy, format=sealed.FORMAT + 1)
  error = refuse(copy)
  assert error.what == f"has format {sealed.FORMAT + 1}; this runtime reads 2"
  assert "runtime.py that lies in the bundle" in error.mend


def test_a_program_that_jax_cannot_read(exported, copy):
  path = copy / "programs" / "liveness.bin.gz"
  shutil.copy(copy / "items.jsonl.gz", path)
  files = exported[2]["files"]
  name = "programs/liveness.bin.gz"
  rewrite(copy, files=files | {name: files["items.jsonl.gz"]})
  error = refuse(copy)
  assert error.where == str(path.resolve()) and "calling conv" in error.what
  assert "install jax" in error.mend


def test_another_answer_than_the_golden_one(exported, copy):
  path = copy / sealed.GOLDEN
  request = json.loads(path.read_text())
  request["scores"][0][2] += 1e-3
  artifacts.write_json(path, request)
  entry = {"bytes": path.stat().st_size, "sha256": artifacts.hash_file(path)}
  rewrite(copy, files=exported[2]["files"] | {sealed.GOLDEN: entry})
  runtime.load(copy, replay=False)
  with pytest.raises(runtime.BundleError, match="request 0 gets the items"):
    runtime.load(copy)


def test_an_export_that_fails_leaves_nothing(exported, tmp_path, monkeypatch):
  recommender, folder, _ = exported
  options = bundle.Options(buckets=(1,), list_width=4)
  contents = tiny.make_contents()
  with pytest.raises(UserError, match="already there"):
    bundle.write(folder, recommender, contents, options)

  def fail(folder):
    assert (folder / sealed.WEIGHTS).is_file()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    bundle.write(
      tmp_path / "new", recommender, tiny.make_contents(beside=[fail]), options
    )
  assert not list(tmp_path.iterdir())
  honest = golden.make

  def lie(*args):
    request = honest(*args)
    request["items"][0].reverse()
    return request

  monkeypatch.setattr(golden, "make", lie)
  with pytest.raises(UserError, match="and was not kept"):
    bundle.write(tmp_path / "new", recommender, contents, options)
  assert not list(tmp_path.iterdir())


def test_half_the_text_encoder(tmp_path):
  """The matrix alone; everything else is as exact as it was."""
  cold = tiny.make_cold_items()
  cold.arrays["text/components_FD"][0] = [0.1, 0.3]
  options = bundle.Options(text_dtype="float16")
  contents = tiny.make_contents(cold=cold)
  manifest = {"encoder": bundle._write_encoder(tmp_path, contents, options)}
  assert manifest["encoder"]["given"] == {"precomputed": 1}
  arrays = sealed.read_tensors(tmp_path / sealed.ENCODER)
  assert arrays.pop("text/components_FD").dtype == np.float16
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, cold.arrays[name])
    assert array.dtype == cold.arrays[name].dtype
  half = coding.Coder(
    tmp_path, manifest, sealed, cold_items, runtime.RequestError
  )
  asked = [{"title": "rot"}], {"precomputed": [[5]]}
  want_NW, half_NW = cold.encode(*asked), half.vectors(*asked)
  assert half_NW.dtype == np.float32
  np.testing.assert_allclose(half_NW, want_NW, rtol=1e-3)
  assert (half_NW != want_NW).any()


def test_options_are_checked():
  for buckets in ((), (0, 1), (8, 1), (1, 1)):
    with pytest.raises(UserError, match="--buckets="):
      bundle.Options(buckets=buckets)
  with pytest.raises(UserError, match="--list_width=0"):
    bundle.Options(list_width=0)
  with pytest.raises(UserError, match="--text_dtype=int8"):
    bundle.Options(text_dtype="int8")
