"""Sound to codes and codes to sound, without a sampler."""
