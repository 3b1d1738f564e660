"""What people are shown of an evaluation: one page, and the same as JSON and CSV."""
