"""Editing of finished results: reopening, retakes, extensions, bridges, variations."""
