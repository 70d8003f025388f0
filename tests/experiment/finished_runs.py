"""Files of finished runs, as far as a comparison reads them."""

import json

import numpy as np

from holorec_jax.train import seal


def write_checkpoint(folder, metric=0.1):
  """A seal and no more, in a folder of checkpoints; what it is known by."""
  path = folder / "1" / seal.SEAL
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {"step": 1, "metric": metric, "data": {}, "loop": {}, "files": {}}
  path.write_text(json.dumps(content))
  return seal.identify(folder, 1)


def write_run(folder, ranks, resolved=None, systems=("plain",), dataset="d"):
  """Of a run's evaluation."""
  folder.mkdir(parents=True)
  headline, *modes = systems
  folders = {name: folder / "systems" / name for name in modes}
  checkpoints = {
    name: write_checkpoint(path / "checkpoints")
    for name, path in ({headline: folder} | folders).items()
  }
  results = {
    "headline": headline,
    "modes": {name: {} for name in modes},
    "baselines": {"item_knn": {}},
    "counts": {"items": 9, "test": 4, "valid": 2},
    "seconds": {f"train/{name}": 12.4 for name in systems},
    "parameters": dict.fromkeys(systems, 4321),
    "search_ms_per_user": dict.fromkeys(systems, 0.5),
    "made_from": {
      "dataset": dataset,
      "search": (resolved or {}).get("search"),
      "baselines": (resolved or {}).get("baselines"),
      "checkpoints": checkpoints,
    },
  }
  (folder / "results.json").write_text(json.dumps(results))
  (folder / "config.json").write_text(json.dumps(resolved or {}))
  np.savez(folder / "ranks.npz", **ranks)


def write_aligned(folder, ranks, resolved):
  """Of its alignment."""
  aligned = folder / "aligned"
  aligned.mkdir()
  made_from = {name: resolved[name] for name in ("preference", "search")}
  tree = {"seconds": 3.0, "made_from": made_from}
  (aligned / "results.json").write_text(json.dumps(tree))
  (aligned / "checkpoints").mkdir()
  (aligned / "checkpoints" / "config.json").write_text(json.dumps(resolved))
  np.savez(aligned / "ranks.npz", **ranks)
