"""Work over whole data sets: in this process, in several, or on a Ray cluster."""
