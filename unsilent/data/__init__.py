"""Training material: tables of clips, shards of arrays, data sets."""
