"""One bundle that several tests look at, and copy to spoil."""

import pathlib
import sys

import jax
import pytest
import tiny_bundles as tiny

from holorec_jax.export import bundle

# For its tiny run.
sys.path.append(str(pathlib.Path(__file__).parent.parent / "experiment"))


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
  """Programs are compiled when they are replayed; their users read the cache.

  Processes that a test starts find it by the environment.
  """
  settings = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      patch.setenv(name.upper(), str(value))
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
      jax.config.update(name, value)
    yield
    for name, value in before.items():
      jax.config.update(name, value)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
  """The recommender, its bundle's folder and its manifest."""
  recommender = tiny.make_recommender("holorec", room=0.5)
  folder = tmp_path_factory.mktemp("exported") / "bundle"
  options = bundle.Options(buckets=(1, 4), list_width=70)
  contents = tiny.make_contents(
    about={"metrics": {"recall@10": 0.5}}, cold=tiny.make_cold_items()
  )
  return (
    recommender,
    folder,
    bundle.write(folder, recommender, contents, options),
  )
