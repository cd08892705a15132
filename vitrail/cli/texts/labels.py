"""Labels on the command line: texts with commas between them, as in a line of CSV."""

import csv
import re

from vitrail.errors import UsageError
from vitrail.validation import as_path

FIX = '--labels "a cat,a dog"; a label with a comma stands in quotes: --labels \'"a cat, asleep",a dog\''


def read_labels(text: str) -> tuple[str, ...]:
    """The labels in a text: `a cat,"a dog, running"`, or a label in each line; or those in a .txt file. Errors:
    `UsageError` for quotes that do not close.

    >>> read_labels('a cat, "a dog, running"')
    ('a cat', 'a dog, running')
    """
    path = as_path(text) if text.lower().endswith(".txt") and "\n" not in text else None
    if path is not None and path.is_file():
        try:
            return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{path} cannot be read as UTF-8 text", "a file of labels has one in each line") from None
    try:
        lines = [re.sub(r'"\s+(,|$)', r'"\1', line.strip()) for line in text.splitlines()]
        rows = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UsageError(f"--labels cannot be read: {error}", FIX) from None
    return tuple(label.strip() for row in rows for label in row)
