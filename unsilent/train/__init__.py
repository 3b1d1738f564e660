"""Training, with Lightning Fabric."""
