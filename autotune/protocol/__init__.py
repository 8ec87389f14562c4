"""What a backend hands over, typed."""
