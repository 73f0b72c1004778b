"""The one exception that the command line shows as a single line."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line, for them.

    Names of files and what libraries say may hold line breaks: they become spaces.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).splitlines()))
