"""The one family of errors that a user's input can cause; the command line turns each into one line and exit code 2.

And the level of the log records that say what was done to a user's columns.
"""

NOTICE = 25
"""Level of a log record between progress, `logging.INFO`, and a warning."""


class InputError(ValueError):
    """What the user passed cannot work. The message says what was expected, what came, and what to do.

    Example:
        >>> raise InputError("expected at least 2 rows; got 1; give more data")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected at least 2 rows; got 1; give more data
    """
