"""The one error that a user can mend."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what is wrong, where, and the remedy. The command line prints it
    without a traceback and exits with code 2.
    """
