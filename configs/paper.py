r"""The network and optimiser of the HoloRec paper (arXiv 2606.15331).

  python launch/run.py --config=configs/paper.py \
    --config.data.path=PATH --workdir=DIR

Meant for an accelerator: a T5 of 4 + 4 layers that reads histories as code
tokens through a bidirectional encoder, one target per row. PATH is any folder
of the source `sequences`. The paper stops early without saying how long it
would have gone on: epochs, evaluate_every and patience are ours.
"""

from ml_collections import ConfigDict

from configs import holorec, systems


def get_config(variant: str = "thinking") -> ConfigDict:
  config = holorec.get_config()
  config.data.source = "sequences"
  config.sid.nested.dims = (8, 16, 32)
  config.sid.nested.levels = 4
  config.sid.nested.codes = 256
  config.sid.nested.hidden = (2048, 1024, 512, 256, 128, 64)
  config.input.rows = "one_target"
  config.input.max_history = 20
  config.input.length_buckets = (2, 3, 4, 6, 8, 12, 16, 20)
  config.input.targets_per_batch = 1024
  config.model.d_model = 128
  config.model.num_heads = 6
  config.model.head_dim = 64
  config.model.d_ff = 1024
  config.model.gated_mlp = False
  config.model.encoder_layers = 4
  config.model.decoder_layers = 4
  config.model.dropout = 0.1
  config.model.history = "codes"
  config.model.causal_history = False
  config.model.start = "bos"
  config.model.cross_bias = False
  config.model.tied_heads = False
  config.model.repeat_bias = False
  config.model.thought_carry = False
  config.loss.thought = 0.5
  config.loss.thought_match = 10.0
  config.loss.label_smoothing = 0.0
  config.optim.learning_rate = 5e-4
  config.optim.warmup_share = 0.01
  config.optim.final_share = 0.0
  config.optim.weight_decay = 0.01
  config.optim.average_decay = 0.0
  config.train.epochs = 200
  config.train.evaluate_every = 4
  config.train.patience = 10
  config.search.batch = 1024
  systems.choose(config, variant, tuned=False)
  if "sasrec" in config.systems:
    # As in its paper: all positions of a history at once, of 50 items.
    config.input.rows = "packed"
    config.model.causal_history = True
    config.input.max_history = 50
    config.input.slots_per_row = 64
    config.input.length_buckets = (2, 3, 4, 6, 8, 12, 16, 24, 50)
  return config
