"""Sound as tensors: mel spectrograms and back, loudness, onsets. Touches no files and no networks."""
