"""Labels on the command line: texts with commas between them, as in a line of CSV."""

import csv
import re

from vitrail.errors import UsageError
from vitrail.validation import as_path

FIX = '--labels "a cat,a dog"; a label with a comma stands in quotes: --labels \'"a cat, asleep",a dog\''


def read_labels(text: str) -> tuple[str, ...]:
    """The labels in a text: `a cat,"a dog, running"`, or a label in each line; or those in a .txt file. Errors:
    `UsageError` for quotes that do not close, and for a file that cannot be read.

    >>> read_labels('a cat, "a dog, running"')
    ('a cat', 'a dog, running')
    """
    path = as_path(text) if text.lower().endswith(".txt") and not {"\n", ","} & set(text) else None
    if path is not None:
        try:
            return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not UTF-8 text", "save it as UTF-8, with a label in each line") from None
        except (OSError, ValueError) as error:
            what = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise UsageError(what, "--labels takes a .txt file with a label in each line, or the labels") from None
    try:
        lines = [re.sub(r'"\s+(,|$)', r'"\1', line.strip()) for line in text.splitlines()]
        rows = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UsageError(f"--labels cannot be read: {error}", FIX) from None
    return tuple(label.strip() for row in rows for label in row)
