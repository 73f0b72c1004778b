"""The one exception that the command line shows as a single line."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line, for them."""
