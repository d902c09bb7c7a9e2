"""The error of data that is missing or damaged."""


class DataError(Exception):
    """Missing or damaged data. The message says where it was looked for and what would do."""
