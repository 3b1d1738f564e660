"""Reading and writing of weights: checkpoints, bundles, the catalogue of published files."""
