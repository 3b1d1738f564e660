"""Media files: decoding to arrays, encoding, muxing. The only room that imports PyAV."""
