"""What goes wrong around a repository through no fault of this program: the store, the database, the files."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import SQLAlchemyError

EXPECTED_ERRORS = (OSError, BotoCoreError, ClientError, SQLAlchemyError)


def one_line(error: BaseException) -> str:
    """The first line of the error's text with its type, for a person."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no details'}"
