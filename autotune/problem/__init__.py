"""Models, layers, shapes and the routing of tokens."""
