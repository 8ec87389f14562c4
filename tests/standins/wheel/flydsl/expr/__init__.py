class Uint8:
    pass
