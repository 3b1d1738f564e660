"""Image classifiers whose penultimate layer is a visual feature."""
