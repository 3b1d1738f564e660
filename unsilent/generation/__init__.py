"""From conditions to a finished result: windows, sampling, rendering, figure."""
