"""The network: its configuration and layers, its variables, and its forward pass."""
