import contextlib
from typing import ClassVar


class CompilationContext:
    hints: ClassVar = {}

    @classmethod
    @contextlib.contextmanager
    def compile_hints(cls, hints):
        cls.hints = hints
        yield
        cls.hints = {}
