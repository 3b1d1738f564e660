"""Sound as tensors: mel spectrograms and back, loudness. Touches no files and no networks."""
