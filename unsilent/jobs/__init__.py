"""Jobs over whole data sets: in this process, in several processes, or on a Ray cluster."""
