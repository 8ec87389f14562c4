"""What is computed: models, layers, shapes and the routing of tokens."""
