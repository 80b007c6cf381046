"""A request that is refused."""


class CommandError(Exception):
    """`code` is "not_found", "conflict" or "usage"; the message is a sentence that says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
