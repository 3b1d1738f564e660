"""Visual input of the sampler's condition: features, optical flow, motion, cuts."""
