"""As much of torch as dummy arguments need: importing the real one takes longer than all the rest."""

bfloat16, int8, int32 = "bfloat16", "int8", "int32"


class Tensor:
    def view(self, *shape):
        return self


def empty(*shape, dtype=None):
    return Tensor()
