def unwrap(value):
    return value
