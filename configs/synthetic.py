"""The embedded data set, all stages in under 3 minutes on two CPU cores.

python launch/run.py --config=configs/synthetic.py --workdir=DIR
"""

from ml_collections import ConfigDict

from configs import holorec


def get_config() -> ConfigDict:
  config = holorec.get_config()
  config.systems = ("thinking", "non_thinking")
  config.data.source = "synthetic"
  config.data.name = "synthetic"
  config.vectors.text_dims = 64
  config.sid.nested.dims = (4, 8, 16)
  config.sid.nested.levels = 3
  config.sid.nested.codes = 32
  config.sid.nested.hidden = (128, 64)
  config.input.max_history = 20
  config.input.targets_per_batch = 512
  config.model.history = "pooled"
  config.model.softmax = "tree"
  config.model.start = "last"
  config.model.cross_bias = True
  config.model.repeat_bias = True
  config.model.thought_carry = True
  config.model.d_model = 64
  config.model.num_heads = 2
  config.model.head_dim = 32
  config.model.d_ff = 128
  config.model.encoder_layers = 1
  config.model.decoder_layers = 1
  config.optim.learning_rate = 3e-3
  config.train.epochs = 20
  config.train.evaluate_every = 4
  config.train.valid_users = 500
  return config
