"""Media files: decoding to arrays, encoding, muxing. Only this package imports PyAV."""
