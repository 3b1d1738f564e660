"""Generation: from conditions through windows, sampling and rendering to a result and its figure."""
