"""The server: uploads, a fair job queue, one thread that owns the models, results that survive restarts, and the web page."""
