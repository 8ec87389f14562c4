def from_c_void_p(kind, address):
    return address
