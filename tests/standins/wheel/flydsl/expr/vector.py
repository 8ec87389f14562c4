def bitcast(result_type, source, **where):
    return source


def from_elements(vector_type, elements, **where):
    return elements
