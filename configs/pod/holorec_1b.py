r"""HoloRec on a decoder-only backbone of 1.4 billion parameters, for a pod.

  python launch/train.py --config=configs/pod/holorec_1b.py \
    --config.data.path=PATH --workdir=DIR

The layers are those of Qwen3-1.7B, so that training can start from its weights
(`models/hf_qwen3.py`). With 4 levels of 1,024 codes the generator has exactly
1,463,944,192 parameters: 1,409,410,048 in the layers and their last norm, the
rest in the pooling of items, code embeddings, heads and the thought's gate. In
float32 with AdamW's two moments and the average they take 16 bytes each. PATH
is any folder of the source `sequences`. Nothing here is tuned: it was never
trained to its end. On a host of eight devices each holds an eighth of the
parameters (config.mesh); --plan=64 tells what that takes on 64.
configs/pod/tiny.py is the same for a CPU.
"""

from ml_collections import ConfigDict

from configs import holorec, systems


def get_config(variant: str = "thinking") -> ConfigDict:
  config = holorec.get_config()
  config.data.source = "sequences"
  config.data.name = "pod"
  config.sid.nested.dims = (8, 16, 32)
  config.sid.nested.levels = 4
  config.sid.nested.codes = 1024
  config.sid.nested.hidden = (2048, 1024, 512, 256)
  config.input.rows = "packed"
  config.input.max_history = 256
  config.input.slots_per_row = 256
  config.input.targets_per_batch = 65_536
  config.model.backbone = "qwen3"
  config.model.d_model = 2048
  config.model.decoder_layers = 28
  config.model.encoder_layers = 0
  config.model.num_heads = 16
  config.model.num_kv_heads = 8
  config.model.head_dim = 128
  config.model.d_ff = 6144
  config.model.gated_mlp = True
  config.model.rope_theta = 1e6
  config.model.dropout = 0.0
  config.model.history = "pooled"
  config.model.softmax = "level"
  config.model.scan_layers = True
  config.model.remat = "layers"
  config.loss.thought = 0.1
  config.loss.thought_match = 0.1
  config.optim.learning_rate = 3e-4
  config.optim.warmup_share = 0.01
  config.optim.final_share = 0.1
  config.optim.weight_decay = 0.1
  config.optim.b2 = 0.95
  config.mesh.fsdp = 8
  config.train.dtype = "bfloat16"
  config.train.epochs = 1
  config.train.evaluate_every = 1
  # One validation, at the end: a run that is killed needs more to go on from.
  config.train.checkpoint_every = 500
  config.train.keep_every = 10_000
  config.search.batch = 1024
  config.baselines = False
  return systems.choose(config, variant)
