"""A sealed folder is found again, or refused with the reason."""

import numpy as np
import pytest

from holorec_jax import manifest
from holorec_jax.artifacts import atomic_folder
from holorec_jax.errors import UserError

CONFIG = {"sid": {"levels": 4, "dims": [8, 32]}}
INPUTS = {"vectors": "abc"}


@pytest.fixture
def sealed(tmp_path):
  with atomic_folder(tmp_path / "sids") as folder:
    np.save(folder / "sids.npy", np.arange(6))
    manifest.write_manifest(
      folder, stage="fit_sids", schema=1, config=CONFIG, inputs=INPUTS
    )
  return tmp_path / "sids"


def check(folder, schema=1, config=CONFIG, inputs=INPUTS, defaults=None):
  return manifest.check_manifest(
    folder, schema=schema, config=config, inputs=inputs, defaults=defaults
  )


def test_finished_and_absent(sealed, tmp_path):
  found = check(sealed)
  assert found == manifest.read_manifest(sealed)
  assert found is not None
  assert found.stage == "fit_sids"
  assert list(found.files) == ["sids.npy"]
  assert found.versions["numpy"] == np.__version__
  assert check(tmp_path / "vectors") is None


def test_content_is_the_same_for_the_same_files(sealed, tmp_path):
  np.save(tmp_path / "sids.npy", np.arange(6))
  again = manifest.write_manifest(
    tmp_path / "sids", stage="other", schema=2, config={}, inputs={}
  )
  # The manifest itself is not a part of the content it seals.
  assert "manifest.json" not in again.files
  assert again.content == manifest.read_manifest(sealed).content


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"config": {"sid": {"levels": 3, "dims": [8, 32]}}}, "sid.levels: 4 -> 3"),
    ({"config": CONFIG | {"seed": 1}}, r"seed: \(absent\) -> 1"),
    ({"inputs": {"vectors": "def"}}, "input vectors is not the one"),
    ({"inputs": {}}, "input vectors, which it was made from, is not read"),
    ({"inputs": INPUTS | {"ids": "1"}}, "input ids was not there when"),
    ({"schema": 2}, "layout version 1 -> 2"),
  ],
)
def test_mismatch_says_what_and_how_to_mend(sealed, change, message):
  with pytest.raises(UserError, match=message) as error:
    check(sealed, **change)
  assert f"{sealed} does not match" in str(error.value)
  assert "--workdir" in str(error.value)


def test_a_leaf_that_came_later_counts_as_its_default(sealed):
  known = {"sid": {"levels": 3, "near": 1}}
  later = {"sid": CONFIG["sid"] | {"near": 1}}
  assert check(sealed, config=later, defaults=known) is not None
  with pytest.raises(UserError, match="near: 1 -> 2"):
    check(sealed, config={"sid": later["sid"] | {"near": 2}}, defaults=known)


def test_another_release_is_the_only_thing_said(sealed):
  with pytest.raises(UserError, match=r"another release made it") as error:
    check(sealed, schema=2, config={}, inputs={"raw/a.txt": "1"})
  assert "config" not in str(error.value)
  assert "input" not in str(error.value)


def test_a_file_changed_by_hand_is_named(sealed):
  with open(sealed / "sids.npy", "r+b") as file:
    file.truncate(100)
  with pytest.raises(UserError, match=r"file sids\.npy was changed"):
    check(sealed)


def test_a_folder_without_a_seal_is_refused(sealed):
  (sealed / "manifest.json").unlink()
  with pytest.raises(UserError, match=r"no manifest\.json: delete it"):
    check(sealed)


def test_a_broken_or_foreign_seal_is_refused(sealed):
  (sealed / "manifest.json").write_text('{"stage": "fit_sids"}')
  with pytest.raises(UserError, match="another release"):
    check(sealed)
  (sealed / "manifest.json").write_text('{"stage": ')
  with pytest.raises(UserError, match="is not JSON"):
    check(sealed)
