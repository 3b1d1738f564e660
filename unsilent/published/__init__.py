"""The authors' published files: download, reading, conversion, installation."""
