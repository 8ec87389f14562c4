class ReplaceIfWithDispatch:
    """The newer kind: it tracks what an `if` assigns."""

    _REWRITE_HELPER_NAMES = frozenset({"range_constexpr"})

    def _collect_assigned_vars(self):
        return []

    @staticmethod
    def _could_be_dynamic(test):
        return True
