"""Search spaces: knobs, values, defaults and the rules of legality."""
