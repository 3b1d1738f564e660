"""Networks and their configurations. No files, no optimizers, no logging."""
