"""Media files: decoding to arrays, encoding, muxing."""
