"""Training data: manifests, shards of arrays, batches."""
