"""Image classifiers whose penultimate layer gives the visual features."""
