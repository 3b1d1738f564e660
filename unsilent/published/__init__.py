"""The authors' published files: fetch, read, convert, install."""
