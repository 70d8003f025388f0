r"""configs/pod/holorec_1b.py for a CPU: the same form, the embedded data set.

python launch/run.py --config=configs/pod/tiny.py --workdir=DIR
"""

from ml_collections import ConfigDict

from configs.pod import holorec_1b


def get_config(variant: str = "thinking") -> ConfigDict:
  config = holorec_1b.get_config(variant)
  config.data.source = "synthetic"
  config.data.name = "synthetic"
  config.vectors.text_dims = 64
  config.sid.nested.dims = (4, 8, 16)
  config.sid.nested.levels = 3
  config.sid.nested.codes = 32
  config.sid.nested.hidden = (128, 64)
  config.input.max_history = 20
  config.input.slots_per_row = 0
  config.input.targets_per_batch = 512
  config.model.d_model = 64
  config.model.decoder_layers = 2
  config.model.num_heads = 4
  config.model.num_kv_heads = 2
  config.model.head_dim = 16
  config.model.d_ff = 128
  config.optim.learning_rate = 3e-3
  config.mesh.fsdp = 1
  config.train.dtype = "float32"
  config.train.epochs = 8
  config.train.evaluate_every = 4
  config.train.valid_users = 500
  config.search.batch = 64
  return config
