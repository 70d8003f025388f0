"""The prepared data set as a TFDS builder writing ArrayRecord files.

For definition and interchange: anything that reads TFDS reads it, without
TensorFlow (`as_data_source`). Training reads the arrays of `schema` instead,
which are hundreds of times faster.

The config `sequences` has the splits train, valid and test. An example is a
user's history, oldest first, and the target that follows it; a training example
is everything that trains, without a target (-1). The config `items` has one
split, items, whose example i is item i. Users, too, keep their order.
"""

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from holorec_jax import artifacts
from holorec_jax.data import schema, splits

FORMAT = "array_record"


class Interactions(tfds.core.GeneratorBasedBuilder):
  """A builder of one prepared data set and its split."""

  # Nothing is downloaded, so no checksums lie beside this file; looking for
  # them needs a package that TFDS 4.9.10 forgets to require.
  code_path = None
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(name="sequences", description="Histories."),
    tfds.core.BuilderConfig(name="items", description="Catalogue."),
  ]

  def __init__(self, dataset: schema.Dataset, split: splits.Split, **kwargs):
    self._dataset = dataset
    self._split = split
    super().__init__(file_format=FORMAT, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "sequences": self._sequence_features,
      "items": self._item_features,
    }[self.builder_config.name]()
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self._dataset.name}: prepared by holorec_jax.",
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _sequence_features(self) -> dict[str, Any]:
    features = {
      "user_id": tfds.features.Text(),
      "history": tfds.features.Tensor(shape=(None,), dtype=np.int32),
      "target": tfds.features.Scalar(dtype=np.int32),
    }
    if self._dataset.timestamps is not None:
      features["timestamps"] = tfds.features.Tensor(
        shape=(None,), dtype=np.int64
      )
    return features

  def _item_features(self) -> dict[str, Any]:
    names = ("item_id", *self._dataset.item_text)
    return {name: tfds.features.Text() for name in names}

  def _split_generators(self, dl_manager) -> dict[str, Any]:
    del dl_manager
    if self.builder_config.name == "items":
      return {"items": self._items()}
    return {
      "train": self._sequences(self._split.train_end, with_target=False),
      "valid": self._sequences(self._split.valid),
      "test": self._sequences(self._split.test),
    }

  def _generate_examples(self, *args, **kwargs):
    raise AssertionError("_split_generators gives the generators themselves")

  def _items(self) -> Iterator[tuple[int, dict[str, str]]]:
    for i, item in enumerate(self._dataset.item_ids):
      text = {name: v[i] for name, v in self._dataset.item_text.items()}
      yield i, {"item_id": item} | text

  def _sequences(
    self, ends: np.ndarray, with_target: bool = True
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Histories [0, end), of users with one."""
    data = self._dataset
    for user in np.flatnonzero(ends > 0).tolist():
      first = int(data.offsets[user])
      history = slice(first, first + int(ends[user]))
      example = {
        "user_id": data.user_ids[user],
        "history": data.items[history],
        "target": data.items[history.stop] if with_target else -1,
      }
      if data.timestamps is not None:
        example["timestamps"] = data.timestamps[history]
      yield user, example


def write_tfds(
  dataset: schema.Dataset,
  split: splits.Split,
  folder: str | os.PathLike[str],
) -> None:
  """Writes both configs below `folder`, which must not exist: all or nothing.

  Read with `tfds.builder_from_directory(folder / "interactions" / config /
  "1.0.0").as_data_source(split)`.
  """
  with artifacts.atomic_folder(pathlib.Path(folder)) as partial:
    for config in Interactions.builder_configs:
      builder = Interactions(
        dataset, split, config=config, data_dir=str(partial)
      )
      builder.download_and_prepare()
    shutil.rmtree(partial / "downloads")  # Made by TFDS, empty.
