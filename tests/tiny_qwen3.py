"""The shape of a tiny decoder-only backbone that several tests share."""

QWEN3 = dict(
  backbone="qwen3",
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  encoder_layers=0,
  decoder_layers=2,
  gated_mlp=True,
  rope_theta=100.0,
)
