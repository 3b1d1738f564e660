"""From pictures to what a sampler is conditioned on: features, optical flow, motion."""
