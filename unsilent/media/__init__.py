"""Media files as arrays and back. The only room that knows PyAV."""
