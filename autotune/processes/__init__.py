"""Starting, stopping and interrupting processes."""
