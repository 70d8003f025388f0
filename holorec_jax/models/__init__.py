"""The generator: history encoder, stepwise decoder, thoughts."""
