"""Work on finished results: reopening, retakes, extensions, bridges, variations."""
