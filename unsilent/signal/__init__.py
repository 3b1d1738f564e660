"""Audio signal processing on tensors: mel spectrograms, inversion, loudness, onsets. No files, no networks."""
