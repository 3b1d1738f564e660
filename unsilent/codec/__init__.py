"""The codec: encodes sound to codes and decodes codes to sound, without a sampler."""
