"""A config that all stages take in seconds, and all stages in a row."""

from holorec_jax.data.config import DataConfig
from holorec_jax.data.pipeline import PipelineConfig
from holorec_jax.data.synthetic import SyntheticConfig
from holorec_jax.decode.recommender import SearchConfig
from holorec_jax.experiment import evaluation, preparation, training
from holorec_jax.experiment.config import Config, as_config_dict, load_config
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.quantize.nested import NestedConfig
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.train.loop import TrainConfig
from holorec_jax.vectors.assemble import VectorConfig

TINY = Config(
  systems=("thinking", "non_thinking"),
  data=DataConfig(
    source="synthetic", synthetic=SyntheticConfig(users=120, items=80)
  ),
  vectors=VectorConfig(text_dims=16, cooccurrence_dims=8),
  sid=SidConfig(
    nested=NestedConfig(
      dims=(2, 4), levels=2, codes=8, hidden=(16,), steps=60, warmup_steps=20
    )
  ),
  input=PipelineConfig(max_history=8, targets_per_batch=256),
  model=GeneratorConfig(
    d_model=16,
    num_heads=2,
    head_dim=8,
    d_ff=32,
    encoder_layers=1,
    decoder_layers=1,
    history="pooled",
  ),
  train=TrainConfig(epochs=2, evaluate_every=1, valid_users=40),
  search=SearchConfig(beam=20, k=20, batch=64),
)


def run_all(config, workdir):
  config = load_config(as_config_dict(config), workdir)
  for stage in (
    preparation.prepare_data,
    preparation.fit_sids,
    training.train,
    evaluation.evaluate,
  ):
    stage(config, workdir)
  return config
