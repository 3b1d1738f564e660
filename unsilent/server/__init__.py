"""The server: uploads, a fair queue, one thread that owns the models, results that survive a restart, and the page."""
