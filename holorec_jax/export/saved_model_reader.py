"""Answers one batch from a SavedModel (`saved_model`), with TensorFlow alone.

  python saved_model_reader.py SAVED_MODEL < inputs.json > outputs.json

This file imports neither jax nor this package, as whoever serves the SavedModel
will not. Inputs and outputs are objects of nested lists, by name.
"""

import json
import sys

INPUTS = ("history", "deny", "allow", "restricted")


def main() -> None:
  # TensorFlow imports jax where there is one.
  sys.modules["jax"] = None  # type: ignore[assignment]
  import tensorflow as tf

  inputs = json.load(sys.stdin)
  search = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
  specs = search.structured_input_signature[1]
  found = search(
    **{name: tf.constant(inputs[name], specs[name].dtype) for name in INPUTS}
  )
  answers = {name: tensor.numpy().tolist() for name, tensor in found.items()}
  answers["ids"] = [[id_.decode() for id_ in ids] for ids in answers["ids"]]
  print(json.dumps(answers))


if __name__ == "__main__":
  main()
