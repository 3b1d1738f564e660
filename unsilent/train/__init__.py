"""Training of all networks with Lightning Fabric."""
