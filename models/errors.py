"""What this package raises when something that its caller gave is wrong."""


class ModelError(ValueError):
    """A file, a name or a setting cannot be used.

    The message is one line that names it, says what is wrong and what to do. The scripts print it without a trace.
    """
